"""Which tokens are hidden, from uniform numbers: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def units(begins: Tensor) -> Tensor:
    """(B, L) number of the unit, from 0, that each position belongs to; `begins` (B, L) bool, where units begin."""
    return (begins.long().cumsum(1) - 1).clamp(min=0)


def choose_units(noise: Tensor, begins: Tensor, allowed: Tensor, rate: float) -> Tensor:
    """A share of the allowed positions, in whole units that are taken in the order of their noise.

    As many are taken, but at least one, as come nearest to round(rate x allowed positions).

    Args:
        noise: (B, L) uniform; unit i of a row goes by element i.
        begins: (B, L) bool, where a unit begins; all true to choose positions one by one.
        allowed: (B, L) bool; other positions are never chosen.
        rate: share of the allowed positions.

    Returns:
        (B, L) bool; nothing in a row where nothing is allowed.
    """
    unit = units(begins)
    score = noise.gather(1, unit).masked_fill(~allowed, 2.0)  # what is not allowed comes last
    # Rank of each position among those of its row, units whole and in order of their noise: equal noise means one unit.
    order = score.argsort(dim=1, stable=True)
    place = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, place)
    counted = torch.where(allowed, rank, -1)
    last = torch.full_like(rank, -1).scatter_reduce_(1, unit, counted, "amax").gather(1, unit)
    first = torch.full_like(rank, score.shape[1]).scatter_reduce_(
        1, unit, torch.where(allowed, rank, score.shape[1]), "amin"
    )
    wanted = (rate * allowed.sum(1)).round().clamp(min=1)[:, None]
    first = first.gather(1, unit)
    nearer = last + 1 - wanted <= wanted - first  # with this unit than without it
    return allowed & (nearer | (first == 0))

"""Rows of unequal length, side by side in one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(parts: Sequence[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Parts of each row one after the other, without gaps.

    Args:
        parts: (B, L_i) values and (B,) how many of them count, for each part.
        width: W, at least as long as the longest row becomes.

    Returns:
        (B, W) values, zero beyond a row's end; (B,) lengths; (B, W) number of the part each comes from, -1 beyond.
    """
    first, _ = parts[0]
    rows, device = len(first), first.device
    values = torch.zeros(rows, width + 1, dtype=first.dtype, device=device)  # the last column takes what does not count
    source = torch.full((rows, width + 1), -1, device=device)
    length = torch.zeros(rows, dtype=torch.int64, device=device)
    for number, (part, count) in enumerate(parts):
        place = torch.arange(part.shape[1], device=device)
        index = torch.where(place < count[:, None], length[:, None] + place, width)
        values.scatter_(1, index, part)
        source.scatter_(1, index, torch.full_like(index, number))
        length = length + count
    return values[:, :width], length, source[:, :width]

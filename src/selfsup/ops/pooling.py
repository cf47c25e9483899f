"""From many vectors to one."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Pool = Literal["mean", "cls"]
Pooling = Pool | Literal["pooler"]  # the network's own way


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the marked positions: (B, L, D) states and (B, L) mask to (B, D); zeros where nothing is marked."""
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooled(states: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    """(B, D) of (B, L, D) states: the mean of those that are marked, or the first, which is of the class token."""
    return masked_mean(states, mask) if pool == "mean" else states[:, 0]

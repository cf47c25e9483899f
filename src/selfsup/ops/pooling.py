"""From many vectors to one."""

from __future__ import annotations

from torch import Tensor


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the marked positions: (B, L, D) states and (B, L) mask to (B, D); zeros where nothing is marked."""
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

"""Losses that tell the other view of an example from all other examples."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfsup.ops.precision import at_least_float32, no_autocast

BLOCK = 1 << 24  # logits held at once; more are made block by block and made again in the backward pass


def _nt_xent_block(
    anchors: Tensor, keys: Tensor, own: Tensor, other: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    with no_autocast(anchors):  # between cosines near 1 bfloat16 leaves 0.004, and the temperature magnifies it
        logits = at_least_float32(anchors) @ at_least_float32(keys).T / temperature  # (A, K)
    logits = logits.scatter(1, own[:, None], -math.inf)  # a view is no candidate for itself
    return F.cross_entropy(logits, other, reduction="none"), logits.argmax(1) == other


def nt_xent(first: Tensor, second: Tensor, keys: Tensor, offset: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalized temperature-scaled cross-entropy (Chen et al. 2020, "SimCLR", equation 1).

    Args:
        first: (B, D) one view of each of this process's rows, of unit length.
        second: (B, D) the other view.
        keys: (2, N, D) both views of the rows of all processes.
        offset: where this process's rows begin among the N.
        temperature: the tau of the paper.

    Returns:
        (2, B) loss of each view as anchor against the 2N - 2 views of other rows, and (2, B) whether the other view
        of its row was the nearest.
    """
    views, rows, _ = keys.shape
    flat = keys.flatten(0, 1)  # (2N, D)
    here = offset + torch.arange(len(first), device=first.device)
    anchors = torch.cat([first, second])  # (2B, D)
    own = torch.cat([here, here + rows])
    other = torch.cat([here + rows, here])
    step = max(BLOCK // len(flat), 1)
    if step >= len(anchors):
        loss, correct = _nt_xent_block(anchors, flat, own, other, temperature)
    else:
        parts = [
            checkpoint(
                _nt_xent_block, anchors[i : i + step], flat, own[i : i + step], other[i : i + step], temperature,
                use_reentrant=False,
            )
            for i in range(0, len(anchors), step)
        ]  # fmt: skip
        loss, correct = (torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[arg-type]
    return loss.view(views, -1), correct.view(views, -1)

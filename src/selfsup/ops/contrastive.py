"""Losses that tell what belongs together from all that does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfsup.ops.precision import at_least_float32, no_autocast

# Logits held at once, on a CPU and elsewhere; more are made block by block, and made again in the backward pass. Larger
# tensors than some MB a CPU's allocator gives back and takes anew each time (decisions.md).
BLOCK = (1 << 20, 1 << 24)


def _same(first: Tensor, second: Tensor) -> Tensor:
    """(A, N) bool: whether any of the ids (A, P) of one is among the ids (N, Q) of another; -1 is no id."""
    found = torch.zeros(len(first), len(second), dtype=torch.bool, device=first.device)
    for one in first.unbind(1):
        for other in second.unbind(1):
            found |= (one[:, None] == other) & (one >= 0)[:, None]
    return found


def in_blocks(
    block: Callable[[slice], tuple[Tensor, Tensor]], anchors: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss and answer of each anchor, made for some at a time where all logits together are more than `BLOCK`.

    Args:
        block: (n,) loss and (n,) whether it is right, of a slice of the anchors.
        anchors: (A, D).
        candidates: (N, D).
    """
    step = max(BLOCK[candidates.device.type != "cpu"] // len(candidates), 1)
    if step >= len(anchors):
        return block(slice(None))
    parts = [checkpoint(block, slice(i, i + step), use_reentrant=False) for i in range(0, len(anchors), step)]
    loss, correct = (torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[arg-type]
    return loss, correct


def _info_nce_block(
    anchors: Tensor, candidates: Tensor, own: Tensor, known: Tensor, ids: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    with no_autocast(anchors):  # between cosines near 1 bfloat16 leaves 0.004, and the temperature magnifies it
        logits = at_least_float32(anchors) @ at_least_float32(candidates).T * scale  # (A, N)
    refused = _same(known, ids)
    refused.scatter_(1, own[:, None], False)
    logits = logits.masked_fill(refused, -math.inf)
    return F.cross_entropy(logits, own, reduction="none"), logits.argmax(1) == own


def info_nce(
    anchors: Tensor, candidates: Tensor, own: Tensor, known: Tensor, ids: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Each anchor's loss of picking its own among all candidates (van den Oord et al. 2018, equation 4).

    -log exp(s cos(a, c_own)) / sum over c exp(s cos(a, c)), where the sum leaves out, beside its own, what is known to
    belong to the anchor too. No more than about `BLOCK` logits are held at once.

    Args:
        anchors: (A, D) of unit length.
        candidates: (N, D) of unit length.
        own: (A,) which candidate belongs to each anchor.
        known: (A, P) ids that are no negatives of each anchor; -1 for none.
        ids: (N, Q) ids of each candidate.
        scale: scalar s, one over the temperature.

    Returns:
        (A,) loss, and (A,) whether its own was the nearest.
    """

    def block(some: slice) -> tuple[Tensor, Tensor]:
        return _info_nce_block(anchors[some], candidates, own[some], known[some], ids, scale)

    return in_blocks(block, anchors, candidates)


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
    here = offset + torch.arange(len(first), device=first.device)
    itself, other = torch.cat([here, here + rows]), torch.cat([here + rows, here])
    ids = torch.arange(views * rows, device=first.device)[:, None]  # a view is no candidate for itself
    scale = torch.tensor(1 / temperature, device=first.device)
    loss, correct = info_nce(torch.cat([first, second]), keys.flatten(0, 1), other, itself[:, None], ids, scale)
    return loss.view(views, -1), correct.view(views, -1)


def _cosent_block(low: Tensor, cosines: Tensor, low_score: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    gap = scale * (low[:, None] - cosines)  # (A, N)
    least = torch.finfo(gap.dtype).min  # of minus infinities alone a gradient is no number
    return gap.masked_fill(low_score[:, None] >= scores, least).flatten().logsumexp(0)


def cosent(cosines: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    """Loss of pairs that are not in the order of their scores (Su 2022, "CoSENT").

    log(1 + sum over pairs i, j with score_i < score_j of exp(s (cos_i - cos_j))); pairs of equal score do not count.

    Args:
        cosines: (N,) of both texts of a pair.
        scores: (N,) how alike they are.
        scale: scalar s, one over the temperature.
    """
    step = max(BLOCK[cosines.device.type != "cpu"] // len(cosines), 1)
    blocks = [
        (cosines[i : i + step], cosines, scores[i : i + step], scores, scale) for i in range(0, len(cosines), step)
    ]
    parts = [
        _cosent_block(*block) if len(blocks) == 1 else checkpoint(_cosent_block, *block, use_reentrant=False)
        for block in blocks
    ]
    return torch.stack([cosines.new_zeros(()), *parts]).logsumexp(0)  # type: ignore[arg-type]

"""Losses of pictures and texts that belong together, where several may belong to one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.ops.contrastive import in_blocks
from selfsup.ops.precision import at_least_float32, no_autocast


def together(own: Tensor, others: Tensor) -> Tensor:
    """(A, N) bool: which rows belong together, because picture or text of both is the same.

    Args:
        own: (A, 2) ids of picture and text of a row.
        others: (N, 2) the same.
    """
    return (own[:, None] == others).any(2)


def partners(ids: Tensor) -> Tensor:
    """(N,) how many rows belong to each, itself among them; without the matrix that `together` makes.

    Args:
        ids: (N, 2) ids of picture and text of a row.
    """

    def alike(key: Tensor) -> tuple[Tensor, Tensor]:
        _, place, count = torch.unique(key, return_inverse=True, return_counts=True)
        return place, count[place]

    (picture, seen), (text, told) = map(alike, ids.unbind(1))
    return seen + told - alike(picture * len(ids) + text)[1]  # those with both equal are counted twice


def _logits(anchors: Tensor, candidates: Tensor, scale: Tensor) -> Tensor:
    with no_autocast(anchors):  # between cosines near 1 bfloat16 leaves 0.004, and the temperature magnifies it
        return at_least_float32(anchors) @ at_least_float32(candidates).T * scale


def _right(logits: Tensor, positive: Tensor) -> Tensor:
    """(A,) whether the nearest candidate belongs to the anchor."""
    return positive.gather(1, logits.argmax(1, keepdim=True))[:, 0]


def shared_info_nce(
    anchors: Tensor, candidates: Tensor, own: Tensor, others: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Each anchor's loss of picking what belongs to it among all candidates, evenly if it is several.

    -1/|P| sum over p in P of log exp(s cos(a, c_p)) / sum over c of exp(s cos(a, c)): with one positive a row that is
    the loss of Radford et al. 2021 ("CLIP", figure 3), one way; with several the target is spread evenly over them, as
    in Khosla et al. 2020 (equation 2). No more than about `BLOCK` logits are held at once.

    Args:
        anchors: (A, D) of unit length.
        candidates: (N, D) of unit length.
        own: (A, 2) ids of each anchor's picture and text, see `together`.
        others: (N, 2) the same of each candidate; each anchor belongs to one at least.
        scale: scalar s, one over the temperature.

    Returns:
        (A,) loss, and (A,) whether the nearest candidate belongs to the anchor.
    """

    def block(some: slice) -> tuple[Tensor, Tensor]:
        logits, positive = _logits(anchors[some], candidates, scale), together(own[some], others)
        mean = (logits * positive).sum(1) / positive.sum(1)
        return logits.logsumexp(1) - mean, _right(logits, positive)

    return in_blocks(block, anchors, candidates)


def sigmoid_pairs(
    anchors: Tensor, candidates: Tensor, own: Tensor, others: Tensor, scale: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Each anchor's loss of telling for every candidate whether it belongs to it (Zhai et al. 2023, "SigLIP").

    - sum over c of log sigmoid(z (s cos(a, c) + b)), where z is 1 for what belongs to the anchor and -1 else: the
    paper's algorithm 1 is the mean over the anchors. No more than about `BLOCK` logits are held at once.

    Args:
        anchors: (A, D) of unit length.
        candidates: (N, D) of unit length.
        own: (A, 2) ids of each anchor's picture and text, see `together`.
        others: (N, 2) the same of each candidate.
        scale: scalar, the paper's t.
        bias: scalar b.

    Returns:
        (A,) loss, and (A,) whether the nearest candidate belongs to the anchor.
    """

    def block(some: slice) -> tuple[Tensor, Tensor]:
        logits, positive = _logits(anchors[some], candidates, scale) + bias, together(own[some], others)
        # softplus(-x) = softplus(x) - x, so that no matrix of signs is needed.
        return F.softplus(logits).sum(1) - (logits * positive).sum(1), _right(logits, positive)

    return in_blocks(block, anchors, candidates)


def sigmoid_trivial(candidates: int, positives: Tensor) -> Tensor:
    """The loss `sigmoid_pairs` of saying the same of every pair: N times the entropy of a pair's belonging together."""
    share = (positives / candidates).clamp(1e-12, 1 - 1e-12)
    return -candidates * (share * share.log() + (1 - share) * (1 - share).log())

"""Formulas of language models."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from selfsup.ops.precision import at_least_float32


def token_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of tokens in nats, and whether each was the likeliest.

    Args:
        logits: (M, V).
        targets: (M,) ids.

    Returns:
        (M,) float32 or, for float64 logits, float64, and (M,) bool.
    """
    return F.cross_entropy(at_least_float32(logits), targets, reduction="none"), logits.argmax(-1) == targets


def bits_per_byte(nats: float, bytes_: int) -> float:
    """The sum of nats over a text as bits for each of its bytes: comparable among tokenizers."""
    return nats / math.log(2) / bytes_


def ranking_loss(scores: Tensor) -> Tensor:
    """-log softmax of the first of some scores: (N, K) to (N,), at least float32.

    Zero only if the first is above all others by far; log K where all are equal. With K = 2 it is the logistic loss of
    the difference.
    """
    exact = at_least_float32(scores)
    return exact.logsumexp(1) - exact[:, 0]

"""Formulas of language models."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from selfsup.ops.precision import at_least_float32


def next_token_loss(logits: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each next token in nats, and whether it was the likeliest.

    Args:
        logits: (B, T, V).
        targets: (B, T) ids.
        counted: (B, T) bool, false where there is no target.

    Returns:
        (B, T) float32 or, for float64 logits, float64, zero where not counted, and (B, T) bool.
    """
    flat = at_least_float32(logits).flatten(0, 1)
    nats = F.cross_entropy(flat, targets.flatten(), reduction="none").view(targets.shape)
    return nats * counted, (logits.argmax(-1) == targets) & counted


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

"""A student that learns to answer as its own slowly moving average does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selfsup.ops.gather import sum_over_processes
from selfsup.ops.precision import at_least_float32


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float | Tensor, rounds: int = 3) -> Tensor:
    """Answers of a teacher that use all prototypes alike (Caron et al. 2020, "SwAV", section 3.1; Cuturi 2013).

    Args:
        logits: (N, K) cosines in -1 to 1, this process's samples; N may be 0, and other on each process.
        temperature: by which they are divided.
        rounds: of making first the prototypes' shares equal and then each sample's answer sum to 1.

    Returns:
        (N, K) float32 at least, each row sums to 1, every column to about N / K over all processes.
    """
    answers = ((at_least_float32(logits) - 1) / temperature).exp()  # at most 1: no cosine is above it
    prototypes = logits.shape[1]
    for _ in range(rounds):
        answers = answers / (sum_over_processes(answers.sum(0)) * prototypes).clamp(min=1e-30)
        answers = answers / answers.sum(1, keepdim=True).clamp(min=1e-30)
    return answers


def cross_entropy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """(...) of answers (..., K) and logits (..., K): how unlike the student answers (Caron et al. 2021, equation 1)."""
    return -(teacher * (at_least_float32(student) / temperature).log_softmax(-1)).sum(-1)


def nearness(vectors: Tensor, keys: Tensor, first: int) -> Tensor:
    """(B,) how near the nearest other vector is, as minus the logarithm of the distance: "KoLeo".

    Sablayrolles et al. 2019, "Spreading vectors for similarity search" (equation 2), as DINOv2 uses it.

    Args:
        vectors: (B, D), this process's.
        keys: (N, D), those of all processes.
        first: row of `keys` that is the first of `vectors`.
    """
    vectors, keys = (at_least_float32(z) / at_least_float32(z).norm(dim=1, keepdim=True) for z in (vectors, keys))
    with torch.no_grad():
        cosines = vectors @ keys.T
        cosines[torch.arange(len(vectors)), first + torch.arange(len(vectors))] = -2.0
        nearest = cosines.argmax(1)
    return -((vectors - keys[nearest]).square().sum(1) + 1e-8).sqrt().log()


def entropy_share(answers: Tensor) -> Tensor:
    """Mean entropy of answers (N, K), as a share of that of a uniform one; 0 without any."""
    entropy = -(answers * answers.clamp(min=1e-12).log()).sum(1)
    return entropy.sum() / (max(len(answers), 1) * math.log(answers.shape[1]))


def teacher_momentum(step: float, progress: float, memory: float) -> float:
    """The momentum of a teacher that remembers a share of the run, and ever more towards its end.

    Caron et al. 2021 raise it from 0.996 to 1 by a cosine in a run of 125,000 steps: their teacher remembers 250, a
    five-hundredth. In a short run that number would leave the teacher near its beginning.

    Args:
        step: a step as a share of the run.
        progress: share of the run that is done.
        memory: share of the run after which a weight of the student is forgotten by a factor e, at the beginning.
    """
    first = math.exp(-step / memory)
    return 1 - (1 - first) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2

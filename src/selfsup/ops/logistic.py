"""Logistic losses and their gradients for many answers at once, compiled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from selfsup.ops.compiled import compiled

MOST = np.float32(20)  # an answer further from 0 counts as so far
TOO_MUCH = np.float32(1e6)  # an answer as far from 0 as this says that the vectors have run off
LOG2E, LN2 = np.float32(math.log2(math.e)), np.float32(math.log(2))
# Of a float32: the bias of its exponent, the bits of its mantissa, and the pattern of 1.
BIAS, MANTISSA, ONE = np.int32(127), np.int32(23), np.int32(127 << 23)
FRACTION = np.int32((1 << 23) - 1)


def _polynomial(function: Callable[[NDArray], NDArray], low: float, high: float) -> list[np.float32]:
    """Degree 7, to 2e-7: LLVM has no exponentials that fill vector registers, which plain loops over these do."""
    fitted = np.polynomial.Chebyshev.interpolate(function, 7, (low, high))
    return [np.float32(number) for number in fitted.convert(kind=np.polynomial.Polynomial).coef]


P0, P1, P2, P3, P4, P5, P6, P7 = _polynomial(np.exp2, -1, 1)
Q0, Q1, Q2, Q3, Q4, Q5, Q6, Q7 = _polynomial(np.log, 1, 2)


@compiled
def judge(x: NDArray, scale: NDArray, bits: NDArray, count: int) -> float:
    """Sum of the losses of `count` answers, which become its gradients; infinite where the vectors have run off.

    Args:
        x: (N,) float32 answers.
        scale: (N,) float32, the weight of the loss log(1 + e ** x) of an answer to noise, or -1 for a word that is to
            be told, whose loss is log(1 + e ** -x); 0 for what was not asked.
        bits: (N,) int32, room.
        count: how many of the N are looked at.
    """
    floats, largest = bits.view(np.float32), np.float32(0)
    for k in range(count):
        largest = max(largest, abs(x[k]))
    if not largest < TOO_MUCH:
        return math.inf
    for k in range(count):
        y = min(max(x[k] if scale[k] > 0 else -x[k], -MOST), MOST) * LOG2E
        whole = np.int32(y)
        f = y - np.float32(whole)
        bits[k] = np.int32(whole + BIAS) << MANTISSA
        x[k] = P0 + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * (P6 + f * P7))))))
    for k in range(count):
        x[k] *= floats[k]
    for k in range(count):
        floats[k] = np.float32(1) + x[k]
    for k in range(count):
        x[k] = scale[k] * (x[k] / floats[k])
    total = np.float32(0)
    for k in range(count):
        total += abs(scale[k]) * np.float32(np.int32(bits[k] >> MANTISSA) - BIAS) * LN2
        bits[k] = np.int32(bits[k] & FRACTION) | ONE
    for k in range(count):
        f = floats[k]
        total += abs(scale[k]) * (Q0 + f * (Q1 + f * (Q2 + f * (Q3 + f * (Q4 + f * (Q5 + f * (Q6 + f * Q7)))))))
    return float(total)

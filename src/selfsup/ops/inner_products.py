"""Inner products of one vector with many: as fast as these can be read from memory."""

from __future__ import annotations

import numpy as np

from selfsup.ops.compiled import compiled, over_rows


@compiled
def _products(keys: np.ndarray, query: np.ndarray, needed: np.ndarray, found: np.ndarray) -> None:
    for row in range(len(keys)):
        if needed[row]:
            total = np.float32(0)
            for column in range(len(query)):
                total += keys[row, column] * query[column]
            found[row] = total


def inner_products(keys: np.ndarray, query: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The product of each key with a query: (N,) float32, minus infinity where it is not allowed.

    It takes one pass over the memory of the keys, or less where few are allowed. A matrix product with one column, by
    MKL or OpenBLAS, can take three (docs/decisions.md).

    Args:
        keys: (N, D) float32.
        query: (D,) float32.
        allowed: (N,) bool.
    """
    found, plain = np.empty(len(keys), np.float32), np.asarray(keys)  # numba knows no mapped arrays
    # Memory is read ahead where rows follow each other: to leave out every third costs more than its product.
    needed = np.ones_like(allowed) if 2 * np.count_nonzero(allowed) >= len(allowed) else allowed

    def work(start: int, stop: int) -> None:
        _products(plain[start:stop], query, needed[start:stop], found[start:stop])

    over_rows(work, len(keys))
    found[~allowed] = -np.inf
    return found

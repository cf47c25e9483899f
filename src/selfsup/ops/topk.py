"""Exact nearest rows by inner product, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in falling order; of equal ones those that stand first.

    Args:
        scores: (M, N).
        k: from 1 to N.

    Returns:
        Values (M, k) and columns (M, k) int64.
    """
    values, index = scores.topk(k, dim=1)
    # Of scores that tie for the last place torch.topk takes any: the rows with such a tie, rare ones, are sorted whole.
    crowded = ((scores >= values[:, -1:]).sum(dim=1) > k).nonzero().squeeze(1)
    if len(crowded):
        ordered = scores[crowded].sort(dim=1, descending=True, stable=True)
        values[crowded], index[crowded] = ordered.values[:, :k], ordered.indices[:, :k]
    index, order = index.sort(dim=1)
    values, falling = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, index.gather(1, falling)


def top_k(
    queries: Tensor,
    keys: Tensor,
    k: int,
    block: int = 4096,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k keys with the largest inner product for each query; exact, by brute force.

    No more than about block x block scores are held at once. Of equal scores the smaller index comes first; equal
    keys have equal scores up to the float rounding of the matrix product.

    Args:
        queries: (M, D).
        keys: (N, D).
        k: how many; cut to N.
        block: rows of `queries`, and of `keys`, that are multiplied at once.
        scale: (N,) factor of each key's products, such as one over its length, in place of a scaled copy of the keys.

    Returns:
        Values (M, min(k, N)) in falling order and indices into the keys (M, min(k, N)) int64.
    """
    k = min(k, len(keys))
    values = queries.new_empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    if k < 1:
        return values, index
    for row in range(0, len(queries), block):
        some = queries[row : row + block]
        best, where = some.new_empty(len(some), 0), index.new_empty(len(some), 0)
        for column in range(0, len(keys), block):
            scores = some @ keys[column : column + block].T  # (block, block)
            if scale is not None:
                scores *= scale[column : column + block]
            new, at = largest(scores, min(k, scores.shape[1]))
            # What was found before has smaller indices and stands first, so ties stay in order.
            best, where = torch.cat([best, new], dim=1), torch.cat([where, at + column], dim=1)
            best, chosen = largest(best, min(k, best.shape[1]))
            where = where.gather(1, chosen)
        values[row : row + block], index[row : row + block] = best, where
    return values, index

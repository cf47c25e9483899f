"""How good a ranking is, by the relevance of what stands where in it; one number a query.

The gain of a document is its judged score, and 0 means not relevant. What each measure is for a ranking in random order
stands below it: the score of knowing nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _discounts(k: int) -> Tensor:
    """(k,) float64: 1 / log2(1 + rank)."""
    return 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()


def dcg(gains: Tensor, k: int) -> Tensor:
    """(Q,) discounted gains of the first k places, linear in the gain as trec_eval has them.

    Järvelin and Kekäläinen 2002: the sum of gain / log2(1 + rank).

    Args:
        gains: (Q, K) of the documents by rank.
        k: places that count.
    """
    first = gains[:, :k].double()
    return first @ _discounts(first.shape[1])


def ideal_dcg(gains: Tensor, k: int) -> Tensor:
    """(Q,) the most that `dcg` can be.

    Args:
        gains: (Q, G) of all relevant documents, in any order, 0 where a query has fewer.
        k: places that count.
    """
    return dcg(gains.sort(dim=1, descending=True).values, k)


def ndcg(ranked: Tensor, gains: Tensor, k: int) -> Tensor:
    """(Q,) discounted gains of the first k places as a share of the most there can be; 0 where nothing is relevant.

    Args:
        ranked: (Q, K) gains of the documents by rank.
        gains: (Q, G) of all relevant documents, found or not, 0 where a query has fewer.
        k: places that count.
    """
    best = ideal_dcg(gains, k)
    return dcg(ranked, k) / best.where(best > 0, 1)


def reciprocal_rank(ranked: Tensor, k: int) -> Tensor:
    """(Q,) one over the place of the first relevant document; 0 where none is among the first k.

    Args:
        ranked: (Q, K) gains of the documents by rank.
        k: places that count.
    """
    first = (ranked[:, :k] > 0).double()
    return (first / torch.arange(1, first.shape[1] + 1)).amax(1) if first.shape[1] else first.sum(1)


def recall(ranked: Tensor, gains: Tensor, k: int) -> Tensor:
    """(Q,) share of the relevant documents that are among the first k; 0 where nothing is relevant.

    Args:
        ranked: (Q, K) gains of the documents by rank.
        gains: (Q, G) of all relevant documents, found or not, 0 where a query has fewer.
        k: places that count.
    """
    return (ranked[:, :k] > 0).sum(1).double() / (gains > 0).sum(1).clamp(min=1)


def average_precision(ranked: Tensor, gains: Tensor, k: int) -> Tensor:
    """(Q,) mean over all relevant documents of the precision at their places; 0 for those behind the first k.

    Args:
        ranked: (Q, K) gains of the documents by rank.
        gains: (Q, G) of all relevant documents, found or not, 0 where a query has fewer.
        k: places that count.
    """
    hits = (ranked[:, :k] > 0).double()
    precision = hits.cumsum(1) / torch.arange(1, hits.shape[1] + 1)
    return (precision * hits).sum(1) / (gains > 0).sum(1).clamp(min=1)


# The same, expected of documents in random order


def ndcg_by_chance(gains: Tensor, documents: int, k: int) -> Tensor:
    """(Q,) `ndcg` expected of so many documents in random order: at each place stands the mean gain."""
    best = ideal_dcg(gains, k)
    mean = gains.double().sum(1) / documents
    return mean * _discounts(min(k, documents)).sum() / best.where(best > 0, 1)


def reciprocal_rank_by_chance(gains: Tensor, documents: int, k: int) -> Tensor:
    """(Q,) `reciprocal_rank` expected of so many documents in random order."""
    relevant = (gains > 0).sum(1).double()
    missed, found = torch.ones_like(relevant), torch.zeros_like(relevant)  # missed: none is relevant so far
    for rank in range(1, min(k, documents) + 1):
        hit = relevant / (documents - rank + 1)  # where none came before, they are all among the rest
        found += missed * hit.clamp(max=1) / rank
        missed = missed * (1 - hit).clamp(min=0)
    return found


def recall_by_chance(gains: Tensor, documents: int, k: int) -> Tensor:
    """(Q,) `recall` expected of so many documents in random order."""
    return (gains > 0).any(1).double() * min(k / documents, 1)


def average_precision_by_chance(gains: Tensor, documents: int, k: int) -> Tensor:
    """(Q,) `average_precision` expected of so many documents in random order.

    A relevant document stands at each place alike, and before it each other relevant one is as likely as any document.
    """
    relevant = (gains > 0).sum(1).double()
    ranks = torch.arange(1, min(k, documents) + 1, dtype=torch.float64)
    others = (relevant - 1).clamp(min=0)[:, None] / max(documents - 1, 1)  # (Q, 1)
    return ((1 + (ranks - 1) * others) / ranks).sum(1) / documents * (relevant > 0)

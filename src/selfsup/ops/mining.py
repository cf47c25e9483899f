"""Hard negatives: the nearest documents that do not belong to a query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfsup.ops.topk import top_k

Kind = Literal["ratio", "margin", "absolute", "none"]
LIMITS: dict[Kind, float] = {"ratio": 0.95, "margin": 0.05, "absolute": 0.7, "none": math.inf}


@dataclass(frozen=True)
class Rule:
    """Which of the nearest documents may be negatives (Moreira et al. 2024, "NV-Retriever", section 3).

    Attributes:
        kind: a document is left out, because it may well belong to the query, unless its cosine is less than `limit`
            times that of the positive (`ratio`), than that of the positive minus `limit` (`margin`), or than `limit`
            (`absolute`); `none` takes all.
        limit: see there; the paper's when None.
        first: of the nearest documents so many are passed over.
        last: and those beyond so many are not looked at.
    """

    kind: Kind = "ratio"
    limit: float | None = None
    first: int = 0
    last: int = 100

    def ceiling(self, own: Tensor) -> Tensor:
        """(Q,) what the cosine of a negative has to stay below, by that of each query's own positive (Q,)."""
        limit = LIMITS[self.kind] if self.limit is None else self.limit
        if self.kind == "ratio":
            return own - (1 - limit) * own.abs()  # the same as limit * own, and below own where that is negative
        return own - limit if self.kind == "margin" else torch.full_like(own, limit)


@dataclass(frozen=True)
class Negatives:
    """What was found for Q queries.

    Attributes:
        index: (Q, K) numbers of documents, nearest first; -1 where there are too few.
        cosines: (Q, K) of these; 0 where there is none.
        looked_at: (Q,) number of documents within the ranks.
        left_out: (Q,) how many of these the rule left out.
    """

    index: Tensor
    cosines: Tensor
    looked_at: Tensor
    left_out: Tensor

    @property
    def dropped(self) -> float:
        """Share of the documents within the ranks that the rule left out."""
        return float(self.left_out.sum() / self.looked_at.sum().clamp(min=1))


def hard_negatives(
    queries: Tensor,
    documents: Tensor,
    own: Tensor,
    known: Tensor,
    ids: Tensor,
    count: int,
    rule: Rule,
    block: int = 4096,
) -> Negatives:
    """The nearest documents of each query that are not known to belong to it and that the rule lets pass.

    Args:
        queries: (Q, D) of length 1.
        documents: (N, D) of length 1.
        own: (Q,) cosine of each query with its positive.
        known: (Q, P) ids of documents that belong to each query; -1 for none.
        ids: (N,) of the documents.
        count: K, negatives for each query.
        rule: which are let pass.
        block: rows that are multiplied at once; see `top_k`.
    """
    values, index = top_k(queries, documents, rule.last + known.shape[1], block)  # (Q, R)
    names = ids[index]
    belongs = torch.zeros_like(index, dtype=torch.bool)
    for one in known.unbind(1):
        belongs |= names == one[:, None]
    rank = (~belongs).cumsum(1)  # from 1
    seen = ~belongs & (rank > rule.first) & (rank <= rule.last)
    good = seen & (values < rule.ceiling(own)[:, None])
    order = (~good).to(torch.int8).argsort(dim=1, stable=True)[:, :count]  # those that are let pass come first
    found = good.gather(1, order)
    index = index.gather(1, order).where(found, -1)
    cosines = values.gather(1, order).where(found, 0.0)
    if index.shape[1] < count:
        more = count - index.shape[1]
        index, cosines = (torch.nn.functional.pad(x, (0, more), value=v) for x, v in ((index, -1), (cosines, 0.0)))
    return Negatives(index, cosines, seen.sum(1), (seen & ~good).sum(1))

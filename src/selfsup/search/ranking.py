"""Rows of an index by how well they answer: by vectors, by words, or by both.

A ranking is of passages, each a row, or of documents, each by the row that answers best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.ops.inner_products import inner_products
from selfsup.ops.topk import largest
from selfsup.search.index import Index
from selfsup.search.words import Counted, scores

Place = tuple[int, int]  # segment, row
Ranking = list[tuple[Place, float]]  # best first
Unit = Callable[[Place], Place]  # place of a row -> itself, or what stands for its document
CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009, section 2)
WEIGHTS = 1.0, 0.5  # of words and vectors when fused; these and the next: docs/decisions.md
FEEDBACK = 3  # rows that a question's vector is moved towards


def passage(place: Place) -> Place:
    """The unit of rankings of passages."""
    return place


def document_of(index: Index) -> Unit:
    """The unit of rankings of documents."""
    return lambda place: (place[0], int(index.segments[place[0]].document[place[1]]))


def nearest_rows(index: Index, vector: Tensor, there: Sequence[np.ndarray], k: int) -> Ranking:
    """The k rows with the largest cosines; exact but where the index has graphs.

    Args:
        index: to search.
        vector: (D,) of length 1.
        there: rows of each segment that count.
        k: how many.
    """
    found = []
    for number, (segment, some) in enumerate(zip(index.segments, there, strict=True)):
        nearest = segment.finder and segment.finder.nearest(vector.numpy(), k, some)
        values, rows = nearest or _exact(segment.vectors, vector, some, k)
        found += [((number, row), value) for row, value in zip(rows.tolist(), values.tolist(), strict=True)]
    return sorted(found, key=lambda one: -one[1])[:k]


def _exact(keys: np.ndarray, vector: Tensor, allowed: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest products (k,) of keys with a vector, and their rows (k,); fewer where fewer are allowed."""
    count = int(np.count_nonzero(allowed))
    if not count:
        return np.zeros(0, np.float32), np.zeros(0, np.int64)
    products = torch.from_numpy(inner_products(keys, vector.numpy(), allowed))
    values, rows = largest(products[None], min(k, count))
    return values[0].numpy(), rows[0].numpy()


def by_words(index: Index, asked: str, there: Sequence[np.ndarray], k: int, unit: Unit) -> Ranking:
    """The k passages or documents with the largest BM25 scores, of those that share a word with a question.

    Args:
        index: to search.
        asked: the question.
        there: rows of each segment that count.
        k: how many.
        unit: what is ranked.
    """
    documents = unit is not passage
    found: Ranking = []
    parts = [number for number, one in enumerate(index.segments) if one.words is not None]
    of_rows = scores(_counted(index, there, documents=False), asked)
    of_units = scores(_counted(index, there, documents=True), asked) if documents else of_rows
    for number, rows, units in zip(parts, of_rows, of_units, strict=True):
        some = torch.from_numpy(np.flatnonzero(units > 0))
        if not len(some):
            continue
        values, place = largest(torch.from_numpy(units)[some][None], min(k, len(some)))
        best = some[place[0]].numpy()
        if documents:
            edges = np.searchsorted(index.segments[number].document, [best, best + 1])
            best = [first + rows[first:last].argmax() for first, last in edges.T]
        found += [((number, int(row)), value) for row, value in zip(best, values[0].tolist(), strict=True)]
    return sorted(found, key=lambda one: -one[1])[:k]


def _counted(index: Index, there: Sequence[np.ndarray], documents: bool) -> list[Counted]:
    return [
        Counted(words, some, one.document if documents else None)
        for one, some in zip(index.segments, there, strict=True)
        if (words := one.words) is not None
    ]


def best_of_each(ranking: Ranking, unit: Unit) -> Ranking:
    """The first row of each passage or document."""
    found: dict[Place, tuple[Place, float]] = {}
    for place, score in ranking:
        found.setdefault(unit(place), (place, score))
    return list(found.values())


def fused(rankings: Sequence[Ranking], weights: Sequence[float], unit: Unit = passage) -> Ranking:
    """By the sum of weight / (60 + rank) over rankings (Cormack, Clarke, Büttcher 2009, there without weights).

    Of a document the row counts that stands first in the first ranking that has it.
    """
    total: dict[Place, float] = {}
    rows: dict[Place, Place] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (place, _) in enumerate(best_of_each(ranking, unit), 1):
            total[unit(place)] = total.get(unit(place), 0.0) + weight / (CONSTANT + rank)
            rows.setdefault(unit(place), place)
    return [(rows[one], score) for one, score in sorted(total.items(), key=lambda one: -one[1])]


def moved(index: Index, vector: Tensor, ranking: Ranking) -> Tensor:
    """(D,) of length 1: a question's vector moved half the way to the mean of the first rows of a ranking.

    Rocchio 1971's relevance feedback with what words found in place of a person's judgement, in vectors as by Li et al.
    2021 (arXiv 2108.11044): what words find is mostly right, and tells the encoder what was meant.

    Args:
        index: that was searched.
        vector: (D,) of length 1.
        ranking: rows, best first; nothing is moved without any.
    """
    rows = [torch.from_numpy(np.array(index.segments[part].vectors[row])) for (part, row), _ in ranking[:FEEDBACK]]
    return F.normalize(vector + F.normalize(torch.stack(rows).mean(0), dim=0), dim=0) if rows else vector

"""Documents ranked by the words that they share with a query: BM25, and TF-IDF."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from sklearn.feature_extraction.text import CountVectorizer
from torch import Tensor

from selfsup.eval.overlap import WORD
from selfsup.eval.tfidf import weighted_words
from selfsup.ops.bm25 import rarity, weight
from selfsup.ops.topk import largest

AT_ONCE = 256  # queries


def bm25(documents: list[str], queries: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """(Q, V) and (N, V): rows whose products are the BM25 scores of Robertson et al. 1994, as Lucene has them.

    The score is the sum over the words of a query, as often as they stand in it, of their rarity times their weight in
    the document (`ops.bm25`). Words are lower-case runs of letters and digits, as they are.

    Args:
        documents: N texts.
        queries: Q texts.
    """
    counter = CountVectorizer(token_pattern=WORD)
    # With a word behind them, for scikit-learn refuses documents that have none at all.
    counts = csr_matrix(counter.fit_transform([*documents, "0"])[:-1], dtype=np.float64)  # (N, V)
    asked = csr_matrix(counter.transform(queries), dtype=np.float64)  # (Q, V)
    within = np.bincount(counts.indices, minlength=counts.shape[1])  # (V,) documents that have the word
    length = np.asarray(counts.sum(1))[:, 0]
    counts.data = weight(counts.data, np.repeat(length, np.diff(counts.indptr)), length.mean())
    return asked, csr_matrix(counts @ diags(rarity(within, len(documents))))


def tf_idf(documents: list[str], queries: list[str]) -> tuple[csr_matrix, csr_matrix]:
    """(Q, V) and (N, V): rows whose products are cosines of words weighted by their rarity in the documents."""
    words = weighted_words(1).fit(documents)
    return csr_matrix(words.transform(queries)), csr_matrix(words.transform(documents))


def ranked(queries: csr_matrix, documents: csr_matrix, k: int) -> Tensor:
    """(Q, k) int64: the documents with the largest products by rank, -1 behind the last one that shares a word.

    Of equal scores the document that stands first in the collection comes first.

    Args:
        queries: (Q, V).
        documents: (N, V).
        k: how many; cut to N.
    """
    k = min(k, documents.shape[0])
    found = torch.full((queries.shape[0], k), -1)
    by_word = csr_matrix(documents.T)
    for start in range(0, queries.shape[0], AT_ONCE):
        scores = csr_matrix(queries[start : start + AT_ONCE] @ by_word)  # (B, N), only what shares a word
        scores.sort_indices()
        for row in range(scores.shape[0]):
            some = slice(scores.indptr[row], scores.indptr[row + 1])
            if some.stop > some.start:
                _, place = largest(torch.from_numpy(scores.data[some])[None], min(k, some.stop - some.start))
                found[start + row, : place.shape[1]] = torch.from_numpy(scores.indices[some]).long()[place[0]]
    return found

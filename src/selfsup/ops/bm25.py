"""BM25: what a word that a document shares with a query says."""

from __future__ import annotations

import numpy as np

K1, B = 1.2, 0.75


def rarity(within: np.ndarray, documents: int) -> np.ndarray:
    """log(1 + (N - n + 0.5) / (n + 0.5)) of words that are in n of N documents, as Lucene has it.

    Robertson et al. 1994 have it without the 1, which makes it negative for words in more than half of the documents.
    """
    return np.log1p((documents - within + 0.5) / (within + 0.5))


def weight(often: np.ndarray, length: np.ndarray, mean: float) -> np.ndarray:
    """F (k1 + 1) / (f + k1 (1 - b + b length / mean length)) of words that are f times in a document of some length."""
    return often * (K1 + 1) / (often + K1 * (1 - B + B * length / max(mean, 1e-12)))

"""How many words two texts have in common: what can be told without any training."""

from __future__ import annotations

import re

import numpy as np

from selfsup.eval.tfidf import cosines, weighted_words

WORD = r"(?u)\w+"  # a run of letters and digits, also of one


def overlap(first: str, second: str) -> float:
    """Dice's coefficient of the sets of lower-case words of two texts: 1 for the same words, 0 for none in common."""
    one, other = (set(re.findall(WORD, text.lower())) for text in (first, second))
    return 2 * len(one & other) / max(len(one) + len(other), 1)


def by_words(first: list[str], second: list[str]) -> dict[str, np.ndarray]:
    """(N,) similarities of N pairs by their words, each by name: their overlap, and TF-IDF, rarity counted on all."""
    rare = weighted_words(1).fit([*first, *second])
    common = np.array([overlap(one, other) for one, other in zip(first, second, strict=True)])
    return {"overlap": common, "tf-idf": cosines(rare, first, second)}

"""How many words two texts have in common: what can be told without any training."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

WORD = r"(?u)\w+"  # a run of letters and digits, also of one


def overlap(first: str, second: str) -> float:
    """Dice's coefficient of the sets of lower-case words of two texts: 1 for the same words, 0 for none in common."""
    one, other = (set(re.findall(WORD, text.lower())) for text in (first, second))
    return 2 * len(one & other) / max(len(one) + len(other), 1)


def overlaps(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """(N,) the overlap of each pair of texts."""
    return np.array([overlap(one, other) for one, other in zip(first, second, strict=True)])

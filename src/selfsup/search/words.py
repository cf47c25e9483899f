"""The words of a segment, and what a question's words say for its passages or documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfsup.ops.bm25 import rarity, weight
from selfsup.search.postings import Postings, words_of

Counts = tuple[np.ndarray, np.ndarray]  # (n,) passages or documents that have a word, rising, and (n,) how often


@dataclass(frozen=True)
class Words:
    """Which passages have a word, and how often.

    Attributes:
        passages: of all that stands in them.
        shared: of what each has in common with the one before it, so that documents can be counted too.
    """

    passages: Postings
    shared: Postings

    @classmethod
    def of(cls, texts: Iterable[str], overlaps: Iterable[str]) -> Words:
        """Count them.

        Args:
            texts: N passages.
            overlaps: N beginnings of them that are the end of the one before, too; mostly empty.
        """
        return cls(Postings.of(texts), Postings.of(overlaps))

    @classmethod
    def load(cls, folder: Path) -> Words:
        """Map what `save` wrote."""
        return cls(Postings.load(folder / "passages"), Postings.load(folder / "shared"))

    def save(self, folder: Path) -> None:
        """Write two folders of arrays."""
        self.passages.save(folder / "passages")
        self.shared.save(folder / "shared")


@dataclass(frozen=True)
class Counted:
    """The words of a segment as a question is put to them.

    Attributes:
        words: of it.
        there: (N,) bool, the passages that count.
        documents: (N,) number of each passage's document, rising; None where passages are what is scored.
    """

    words: Words
    there: np.ndarray
    documents: np.ndarray | None

    def lengths(self) -> np.ndarray:
        """(n,) words of each passage or document; 0 for those that do not count."""
        if self.documents is None:
            return np.where(self.there, self.words.passages.lengths, 0)
        own = (self.words.passages.lengths - self.words.shared.lengths) * self.there
        return np.bincount(self.documents, own, self.documents[-1] + 1 if len(own) else 0)

    def count(self) -> int:
        """Passages or documents that count."""
        return int(self.there.sum()) if self.documents is None else len(np.unique(self.documents[self.there]))

    def of_word(self, word: str) -> Counts:
        """Of those that count."""
        found = _kept(self.words.passages.of_word(word), self.there)
        if self.documents is None:
            return found
        which, often = _summed(found, self.documents)
        twice, by = _summed(_kept(self.words.shared.of_word(word), self.there), self.documents)
        both = np.isin(twice, which)  # what two passages share may be a part of a word that neither has as such
        often[np.searchsorted(which, twice[both])] -= by[both]
        return which[often > 0], often[often > 0]


def _kept(counts: Counts, there: np.ndarray) -> Counts:
    some = there[counts[0]]
    return counts[0][some], counts[1][some]


def _summed(counts: Counts, documents: np.ndarray) -> Counts:
    """By document."""
    which, first = np.unique(documents[counts[0]], return_index=True)
    return which, np.add.reduceat(counts[1], first) if len(which) else counts[1].copy()


def scores(parts: Sequence[Counted], query: str) -> list[np.ndarray]:
    """The BM25 scores of all passages or documents for a query: (n,) float64 of each part, 0 without a common word.

    Args:
        parts: of an index, which count as one.
        query: what is asked; a word counts as often as it stands there.
    """
    lengths, count = [one.lengths() for one in parts], sum(one.count() for one in parts)
    mean = sum(float(one.sum()) for one in lengths) / max(count, 1)
    found = [np.zeros(len(one)) for one in lengths]
    for word, often in Counter(words_of(query)).items():
        of_word = [one.of_word(word) for one in parts]
        rare = rarity(np.array(sum(len(which) for which, _ in of_word)), count)
        for (which, counts), length, score in zip(of_word, lengths, found, strict=True):
            score[which] += often * rare * weight(counts, length[which], mean)
    return found

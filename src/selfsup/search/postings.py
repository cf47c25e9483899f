"""Which passages have a word, and how often: what BM25 needs, in files that are mapped into memory."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfsup.eval.overlap import WORD

FILES = ("spelling", "ends", "starts", "rows", "counts", "lengths")


def mapped(file: Path) -> np.ndarray:
    """An array in a file, mapped into memory."""
    try:
        return np.load(file, mmap_mode="r")
    except ValueError:  # nothing can be mapped of an array without numbers
        return np.load(file)


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits, in order."""
    return re.findall(WORD, text.lower())


@dataclass(frozen=True)
class Postings:
    """The words of N passages, V different ones.

    Attributes:
        spelling: (B,) uint8, all words in UTF-8, sorted, one behind the other.
        ends: (V,) int64, where each ends.
        starts: (V + 1,) int64, where the passages of each begin in `rows`.
        rows: (P,) int32, passages that have a word, in rising order for each word.
        counts: (P,) int32, how often.
        lengths: (N,) int32, words in each passage.
    """

    spelling: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Postings:
        """Count the words of texts."""
        numbers: dict[str, int] = {}
        words, rows, counts, lengths = array("q"), array("i"), array("i"), array("i")
        for row, text in enumerate(texts):
            found = Counter(words_of(text))
            lengths.append(found.total())
            for word, count in found.items():
                words.append(numbers.setdefault(word, len(numbers)))
                rows.append(row)
                counts.append(count)
        spelled = sorted((word.encode("utf-8", "surrogatepass"), number) for word, number in numbers.items())
        place = np.empty(len(spelled), np.int64)
        place[[number for _, number in spelled]] = np.arange(len(spelled))
        sorted_words = place[np.frombuffer(words, np.int64)]
        order = np.argsort(sorted_words, kind="stable")
        starts = np.concatenate([[0], np.bincount(sorted_words, minlength=len(spelled)).cumsum()])
        return cls(
            np.frombuffer(b"".join(word for word, _ in spelled), np.uint8),
            np.cumsum([len(word) for word, _ in spelled], dtype=np.int64),
            starts.astype(np.int64),
            np.frombuffer(rows, np.int32)[order],
            np.frombuffer(counts, np.int32)[order],
            np.frombuffer(lengths, np.int32),
        )

    @classmethod
    def load(cls, folder: Path) -> Postings:
        """Map what `save` wrote."""
        return cls(*(mapped(folder / f"{name}.npy") for name in FILES))

    def save(self, folder: Path) -> None:
        """Write a file for each array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(FILES, self.arrays(), strict=True):
            np.save(folder / f"{name}.npy", content)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them, in the order of `FILES`."""
        return self.spelling, self.ends, self.starts, self.rows, self.counts, self.lengths

    def _word(self, number: int) -> bytes:
        return self.spelling[self.ends[number - 1] if number else 0 : self.ends[number]].tobytes()

    def of_word(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) passages that have a word, and (n,) how often."""
        asked = word.encode("utf-8", "surrogatepass")
        place = bisect_left(range(len(self.ends)), asked, key=self._word)
        if place == len(self.ends) or self._word(place) != asked:
            return self.rows[:0], self.counts[:0]
        some = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.rows[some], self.counts[some]

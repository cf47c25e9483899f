"""A table of word vectors, each the sum of the rows of a word and of its n-grams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ngrams(word: str, least: int, most: int) -> list[str]:
    """All stretches of `least` to `most` characters of <word> (Bojanowski et al. 2017), itself not among them."""
    marked = f"<{word}>"
    lengths = range(least, min(most, len(marked) - 1) + 1)
    return [marked[start : start + size] for size in lengths for start in range(len(marked) - size + 1)]


class WordTable(nn.Module):
    """Vectors of V words: the sum of P rows over the root of P, so that it is as long as one row at the start.

    Attributes:
        weight: (R, D), a row for each word, then those that the n-grams share.
        parts: (all,) int64, the rows of each word, one word after the other.
        offsets: (V + 1,) int64, where each word's begin.
    """

    parts: Tensor
    offsets: Tensor

    def __init__(self, words: Sequence[str], width: int, spelling: tuple[int, int] | None, buckets: int) -> None:
        """A table with uniform weights, as word2vec begins.

        Args:
            words: of the vocabulary.
            width: D.
            spelling: least and most characters of n-grams; None for none.
            buckets: rows that n-grams share.
        """
        super().__init__()
        self.size, self.spelling, self.buckets = len(words), spelling, buckets if spelling else 0
        parts, ends = np.arange(self.size), np.arange(self.size + 1)
        if spelling is not None:
            rows = [np.array([number, *self.shared(word)]) for number, word in enumerate(words)]
            parts, ends = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
        self.register_buffer("parts", torch.from_numpy(parts), persistent=False)
        self.register_buffer("offsets", torch.from_numpy(ends), persistent=False)
        self.weight = nn.Parameter(torch.empty(self.size + self.buckets, width).uniform_(-0.5 / width, 0.5 / width))

    def shared(self, word: str) -> list[int]:
        """The rows of a word's n-grams."""
        if self.spelling is None:
            return []
        return [self.size + zlib.crc32(part.encode()) % self.buckets for part in ngrams(word, *self.spelling)]

    def forward(self, ids: Tensor) -> Tensor:
        """(..., D) vectors of the words with these ids (...)."""
        if self.spelling is None:
            return F.embedding(ids, self.weight)
        start, stop = self.offsets[ids], self.offsets[ids + 1]
        count = (stop - start).flatten()
        begin = torch.cumsum(count, 0) - count
        index = torch.arange(int(count.sum()), device=count.device) - torch.repeat_interleave(begin, count)
        rows = self.parts[index + torch.repeat_interleave(start.flatten(), count)]
        found = F.embedding_bag(rows, self.weight, begin, mode="sum") / count[:, None].sqrt()
        return found.unflatten(0, ids.shape)

    def spelled(self, word: str) -> Tensor | None:
        """(D,) of a word that is not in the vocabulary, from its n-grams; None where there are none."""
        rows = self.shared(word)
        return self.weight[rows].sum(0) / len(rows) ** 0.5 if rows else None

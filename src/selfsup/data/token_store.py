"""Prepared text: one flat array of token ids with the documents' offsets, memory-mapped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfsup.data.store import Mapped
from selfsup.data.tokenizer import end_id

BATCH = 1 << 20  # ids that are digested at once


@dataclass(frozen=True)
class TokenStore:
    """Token ids of the documents of one part, one after the other, each followed by the end token.

    Attributes:
        ids: (all,) uint16 or uint32, memory-mapped.
        start, stop: the ids that this store shows.
        offsets: (D + 1,) int64, where documents begin in `ids`.
        tokenizer: turns ids back into text.
    """

    ids: Mapped
    start: int
    stop: int
    offsets: np.ndarray
    tokenizer: PreTrainedTokenizerBase

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies, with the counts beside it."""
        return self.ids.path.parent / "tokenizer"

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids from `start` to before `stop` of what this store shows; what lies outside is left out."""
        return self.ids[slice(self.start + max(start, 0), self.start + max(min(stop, len(self)), 0))]

    @cached_property
    def places(self) -> np.ndarray:
        """(D + 1, 2) where each text begins and stops, before its mark; nothing for the last, which stands for none."""
        start, stop = self.offsets[:-1], self.offsets[1:].copy()
        some = np.flatnonzero(stop > start)
        stop[some] -= self.ids.array[stop[some] - 1] == end_id(self.tokenizer)
        return np.concatenate([np.stack([start, stop], 1), np.zeros((1, 2), np.int64)])

    def texts(self) -> tuple[np.ndarray, np.ndarray]:
        """(D,) where each text begins and where it stops, before the mark that ends it; empty ones are left out."""
        offsets = np.clip(self.offsets - self.start, 0, len(self))
        start, stop = offsets[:-1], offsets[1:]
        start, stop = start[stop > start], stop[stop > start]
        marked = self.ids[self.start + stop - 1] == end_id(self.tokenizer)
        stop = stop - marked
        return start[stop > start], stop[stop > start]

    def text(self) -> str:
        """All that this store shows, as text, without the ends of documents."""
        return str(self.tokenizer.decode(self.read(0, len(self)).tolist(), skip_special_tokens=True))

    def digest(self) -> str:
        """A short digest of all ids that this store shows; about a second for a GB."""
        total = hashlib.blake2b(digest_size=12)
        for start in range(0, len(self), BATCH):
            total.update(self.read(start, start + BATCH).data)
        return total.hexdigest()

    def text_end(self, size: int) -> bytes:
        """The last `size` bytes of what this store shows."""
        ids = self.read(len(self) - size - 4, len(self))  # a token has at least a byte, a character at most four
        return str(self.tokenizer.decode(ids.tolist())).encode("utf-8")[-size:]

    def cut(self, start: int, stop: int) -> TokenStore:
        """The store of a stretch of this one."""
        return replace(self, start=self.start + start, stop=self.start + stop)

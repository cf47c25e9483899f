"""Rows of texts that belong together: those of a table, or two views of one text."""

from __future__ import annotations

import logging
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from selfsup.data.draw import Draw
from selfsup.data.pair_store import PairStore
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.text import TextReader, padded
from selfsup.data.token_store import TokenStore

log = logging.getLogger("selfsup")
SHARES = (0.1, 0.5)  # of a text that a span may hold (Izacard et al. 2022, "Contriever": 5 to 50 %, of 256 tokens)
LEAST = 8  # tokens in a span, where there are so many
PIECE = 2  # texts are cut to pieces of so many times what the network reads, for spans


class GroupReader(Reader):
    """A row is a query, its positive, and its negatives: those it has, and the positives of its companions.

    Batch keys: `texts` (B, C, L) int64 with `texts_length` (B, C), 0 where there is none; `texts_id` (B, C) which text
    each is, -1 for none; `known` (B, P) the ids that are no negatives of the row's query: its own, its positives', -1
    for none; and where the rows have one, `score` (B,).
    """

    store: TokenStore
    longest: int

    @abstractmethod
    def places(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """(B, C, 2) where the texts of the drawn rows begin and stop, (B, C) their ids; the positive is the second."""

    @abstractmethod
    def known(self, rows: np.ndarray) -> np.ndarray:
        """(B, P) ids that are no negatives of each row's query."""

    def scores(self, rows: np.ndarray) -> Batch:
        """`score` (B,) where the rows have one."""
        return {}

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The texts of the drawn rows."""
        rows = draw.rows.numpy()
        places, ids = self.places(draw)
        if companions is not None:
            found, names = self.mined(draw, companions.rows[draw.rows])
            places, ids = np.concatenate([places, found], 1), np.concatenate([ids, names], 1)
        count = ids.shape[1]
        start, stop = places.reshape(-1, 2).T
        flat = padded(self.store, start.tolist(), np.minimum(stop, start + self.longest).tolist(), self.longest)
        return {
            "texts": flat["tokens"].view(len(rows), count, -1),
            "texts_length": flat["tokens_length"].view(len(rows), count),
            "texts_id": torch.from_numpy(ids.astype(np.int64)),
            "known": torch.from_numpy(self.known(rows).astype(np.int64)),
            **self.scores(rows),
        }

    def mined(self, draw: Draw, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(B, K, 2) places and (B, K) ids of the positives of other rows (B, K); -1 is none."""
        there = rows.flatten() >= 0
        others = Draw(draw.seed, draw.epoch, rows.flatten()[there])
        found, names = np.zeros((rows.numel(), 2), np.int64), np.full(rows.numel(), -1)
        if len(others):
            places, ids = self.places(others)
            found[there.numpy()], names[there.numpy()] = places[:, 1], ids[:, 1]
        return found.reshape(*rows.shape, 2), names.reshape(rows.shape)


class PairReader(GroupReader):
    """A row is one of a table of pairs; see `GroupReader`. Texts that are longer than the network reads are cut."""

    def __init__(self, store: PairStore, longest: int) -> None:
        """Rows of texts of at most `longest` tokens."""
        self.store, self.pairs, self.longest = store, store, longest
        used = np.unique(store.rows)
        sizes = np.diff(store.places[used[used >= 0]])[:, 0]
        if (sizes > longest).any():
            log.info(
                "%d of %d texts are longer than %d tokens: what comes after is not read; a longer --context has it",
                (sizes > longest).sum(), len(sizes), longest,
            )  # fmt: skip
        names = store.identity[store.rows[:, :2]]  # (N, 2)
        pairs = np.unique(np.concatenate([names, names[:, :1].repeat(2, 1)]), axis=0)  # a query is none of its own
        self.queries, first, self.count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
        self.first, self.answers = first, pairs[:, 1]

    def __len__(self) -> int:
        return len(self.pairs.rows)

    def places(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """See `GroupReader`."""
        texts = self.pairs.rows[draw.rows.numpy()]  # the last of all texts is none
        return self.pairs.places[texts], np.where(texts >= 0, self.pairs.identity[texts], -1)

    def known(self, rows: np.ndarray) -> np.ndarray:
        """See `GroupReader`."""
        query = np.searchsorted(self.queries, self.pairs.identity[self.pairs.rows[rows, 0]])
        place = np.arange(self.count.max())
        inside = place < self.count[query, None]
        return np.where(inside, self.answers[np.where(inside, self.first[query, None] + place, 0)], -1)

    def scores(self, rows: np.ndarray) -> Batch:
        """See `GroupReader`."""
        return {"score": torch.from_numpy(self.pairs.scores[rows])} if len(self.pairs.scores) else {}


class ViewReader(GroupReader):
    """A row is a text, or a piece of one that is longer, and its query and positive are two views of it.

    They are the same text, for a network with dropout, or two spans: each of a tenth to half of the text, at least
    `LEAST` tokens, drawn apart from each other, so that they may overlap.
    """

    def __init__(self, store: TokenStore, longest: int, spans: bool) -> None:
        """Texts in pieces of at most `longest` tokens, or of `PIECE` times as many for spans."""
        self.store, self.longest, self.spans = store, longest, spans
        most = longest * PIECE if spans else longest
        pieces = TextReader(store, most)
        self.start, self.stop = pieces.start, pieces.stop
        documents = len(store.texts()[0])
        if len(self.start) > documents:
            log.info(
                "%d texts are read as %d pieces of at most %d tokens; a longer --context makes fewer", documents,
                len(self.start), most,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.start)

    def places(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """See `GroupReader`."""
        rows = draw.rows.numpy()
        start, size = self.start[rows, None], (self.stop - self.start)[rows, None]
        if self.spans:
            number = draw.uniform("spans", 2, 2).double().numpy()  # (B, view, length or place)
            low = np.minimum(np.maximum(SHARES[0] * size, LEAST), size)
            high = np.maximum(SHARES[1] * size, low)
            length = np.minimum(np.rint(low + number[:, :, 0] * (high - low)), self.longest).astype(np.int64)
            begin = start + np.floor(number[:, :, 1] * (size - length + 1)).astype(np.int64)
        else:
            length, begin = np.repeat(size, 2, 1), np.repeat(start, 2, 1)
        return np.stack([begin, begin + length], 2), np.repeat(rows[:, None], 2, 1)

    def known(self, rows: np.ndarray) -> np.ndarray:
        """See `GroupReader`."""
        return rows[:, None]

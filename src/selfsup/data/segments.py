"""Rows of text: two consecutive segments of one document, and a foreign one."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.text import padded
from selfsup.data.tokens import TokenStore
from selfsup.data.words import Words
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
BLOCK = 1 << 22  # tokens that are looked through at once
FULL = 0.85  # how full segments are on average, so that sentences have room to end where they do


@njit(cache=True)
def sentence_ends(ids: NDArray, ends: NDArray, closes: NDArray, opens: NDArray, wide: NDArray) -> NDArray:
    """Places in `ids` behind which a sentence is over, by the tables of `Words`."""
    found, count = np.empty(len(ids), np.int64), 0
    over = free = False  # a sentence has ended, and needs no space to be sure of it
    for place in range(len(ids)):
        token = ids[place]
        if over and closes[token] and not ends[token]:
            continue  # a closing quote still belongs to it
        if over and (free or opens[token]):
            found[count] = place
            count += 1
        over = ends[token]
        free = wide[token]
    return found[:count]


@njit(cache=True)
def cut(start: int, stop: int, ends: NDArray, longest: int) -> NDArray:
    """Where to cut a document into segments of about equal length, at ends of sentences; first and last included.

    There are at least two where there are two sentences. A stretch without an end of a sentence, longer than a segment
    may be, is cut at `longest`.
    """
    size = stop - start
    count = max(int(np.ceil(size / (FULL * longest))), 2)
    cuts = [start]
    for k in range(1, count):
        goal = start + size * k / count
        right = np.searchsorted(ends, goal)
        best = -1
        for number in (right - 1, right):
            fits = 0 <= number < len(ends) and cuts[-1] < ends[number] < stop
            if fits and (best < 0 or abs(ends[number] - goal) < abs(ends[best] - goal)):
                best = number
        if best >= 0:
            cuts.append(ends[best])
    cuts.append(stop)
    found = [start]
    for k in range(1, len(cuts)):
        while cuts[k] - found[-1] > longest:
            found.append(found[-1] + longest)
        found.append(cuts[k])
    return np.array(found)


def segments(store: TokenStore, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All segments of a store: (S,) where each begins and stops, its document, and whether a sentence ends with it.

    A document of one sentence is one segment, or as many as it needs to be read at all.
    """
    words = Words.of(store.tokenizer)
    tables = (words.ends, words.closes, words.opens, words.wide)
    ends = np.concatenate(
        [block + sentence_ends(store.read(block, block + BLOCK), *tables) for block in range(0, len(store), BLOCK)]
    )
    starts, stops, numbers = [], [], []
    for number, (start, stop) in enumerate(zip(*store.texts(), strict=True)):
        inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")]
        places = cut(start, stop, inside, longest)
        starts.append(places[:-1])
        stops.append(places[1:])
        numbers.append(np.full(len(places) - 1, number))
    stop = np.concatenate(stops)
    return np.concatenate(starts), stop, np.concatenate(numbers), np.isin(stop, ends)


class SegmentReader(Reader):
    """A row is a segment A, the segment B that follows it in the same document, and a foreign one C.

    Where a sentence is too long for a segment and had to be cut, its parts make no pair: that they belong together
    can be told from the torn word alone.

    C is drawn anew in every epoch: for half of the rows from the same document, for the others from any; never A or B,
    and of the same document not next to them.

    Batch keys: `first`, `second`, `foreign` (B, longest) int64, each with its `..._length` (B,).
    """

    def __init__(self, store: TokenStore, longest: int) -> None:
        """Segments of at most `longest` tokens.

        Raises:
            UserError: no document has two sentences.
        """
        self.store, self.longest = store, longest
        self.start, self.stop, document, whole = segments(store, longest)
        self.rows = np.flatnonzero((document[:-1] == document[1:]) & whole[:-1])
        self.low = np.searchsorted(document, document)  # first segment of the document of each, and the one after
        self.high = np.searchsorted(document, document, "right")  # its last
        if len(self.start) < 8:
            raise UserError(f"{len(self.start)} segments of text are too few to find foreign ones in; give more text")
        if not len(self.rows):
            raise UserError("no document has two sentences, so there is no order to learn; give longer texts")
        documents, paired = int(document[-1]) + 1, len(np.unique(document[self.rows]))
        if paired < documents:
            alone = documents - paired
            log.info("%d of %d documents have one sentence only: they make no pairs", alone, documents)

    def __len__(self) -> int:
        return len(self.rows)

    def foreign(self, draw: Draw) -> np.ndarray:
        """(B,) number of the foreign segment of each row of a draw."""
        first = self.rows[draw.rows.numpy()]
        low, high = self.low[first], self.high[first]
        near = draw.bernoulli("near", 0.5, 1)[:, 0].numpy() & (high - low > 4)
        low, high = np.where(near, low, 0), np.where(near, high, len(self.start))
        # All from low to high, but for the four around A and B: number them from behind B.
        left, right = np.maximum(first - 1, low), np.minimum(first + 3, high)
        number = draw.integers("foreign", torch.from_numpy(np.maximum(high - low - (right - left), 1))[:, None], 1)
        place = right + number[:, 0].numpy()
        return np.where(place < high, place, low + place - high)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The segments of the drawn rows."""
        first = self.rows[draw.rows.numpy()]
        found: Batch = {}
        for name, rows in (("first", first), ("second", first + 1), ("foreign", self.foreign(draw))):
            one = padded(self.store, self.start[rows].tolist(), self.stop[rows].tolist(), self.longest)
            found |= {name: one["tokens"], f"{name}_length": one["tokens_length"]}
        return found

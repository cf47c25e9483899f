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
from selfsup.data.token_store import TokenStore
from selfsup.data.words import Words
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
BLOCK = 1 << 22  # tokens that are looked through at once
MUCH = 0.25  # of a text, to be told that it is in no segment
FULL = 0.85  # how full segments are on average, so that sentences have room to end where they do


@njit(cache=True)
def sentence_ends(ids: NDArray, tables: NDArray) -> NDArray:
    """Places in `ids` behind which a sentence or a paragraph is over, by the (6, V) tables of `Words`."""
    ends, closes, opens, wide, blank, line = tables
    found, count = np.empty(len(ids), np.int64), 0
    over = free = False  # a sentence has ended, and needs no space to be sure of it
    gap, lined = -1, False  # where white space began, and whether a line has ended in it
    for place in range(len(ids)):
        token = ids[place]
        if over and closes[token] and not ends[token]:
            continue  # a closing quote still belongs to it
        if over and (free or opens[token]):
            found[count] = place
            count += 1
        if not blank[token]:
            gap, lined = -1, False
        elif gap < 0:
            gap, lined = place, line[token]
        elif line[token]:
            if lined and (count == 0 or found[count - 1] < gap):  # an empty line
                found[count] = gap
                count += 1
            lined = True
        over = ends[token]
        free = wide[token]
    return found[:count]


@njit(cache=True)
def cut(start: int, stop: int, ends: NDArray, longest: int) -> NDArray:
    """(S, 2) where the segments of a document begin and stop: whole sentences, about equally many tokens.

    There are at least two where there are two sentences that fit. A sentence longer than a segment may be is in none.
    """
    found, count, place = np.empty((len(ends) + 1, 2), np.int64), 0, start
    while place < stop:
        rest = stop - place
        goal = place + rest / max(np.ceil(rest / (FULL * longest)), 2 if count == 0 else 1)
        right = np.searchsorted(ends, place, "right")  # first end behind this place
        best = ends[right] if right < len(ends) else stop
        for number in range(right + 1, len(ends) + 1):
            end = ends[number] if number < len(ends) else stop
            if end - place > longest or abs(end - goal) > abs(best - goal):
                break
            best = end
        if best - place <= longest:
            found[count] = place, best
            count += 1
        place = best
    return found[:count]


def segments(store: TokenStore, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The segments of a store: (S,) where each begins and stops, and (S,) the number of its document."""
    words = Words.of(store.tokenizer)
    tables = np.stack([words.ends, words.closes, words.opens, words.wide, words.blank, words.line])
    ends = np.concatenate(
        [block + sentence_ends(store.read(block, block + BLOCK), tables) for block in range(0, len(store), BLOCK)]
    )
    places, numbers = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)]
    for number, (start, stop) in enumerate(zip(*store.texts(), strict=True)):
        inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")]
        found = cut(start, stop, inside, longest)
        places.append(found)
        numbers.append(np.full(len(found), number))
    start, stop = np.concatenate(places).T
    return start, stop, np.concatenate(numbers)


class SegmentReader(Reader):
    """A row is a segment A, the segment B that follows it in the same document, and a foreign one C.

    All are whole sentences: where one had to be cut, its place could be told from the torn end alone. What is too long
    for a segment is in no row.

    C is drawn anew in every epoch: for a share `near` of the rows from the same document, for the others from any;
    never A or B, and of the same document not next to them.

    Batch keys: `first`, `second`, `foreign` (B, longest) int64, each with its `..._length` (B,).
    """

    def __init__(self, store: TokenStore, longest: int, near: float = 0.0) -> None:
        """Segments of at most `longest` tokens.

        Raises:
            UserError: no document has two sentences that fit.
        """
        self.store, self.longest, self.near = store, longest, near
        self.start, self.stop, document = segments(store, longest)
        self.rows = np.flatnonzero((document[:-1] == document[1:]) & (self.stop[:-1] == self.start[1:]))
        self.low = np.searchsorted(document, document)  # first segment of the document of each, and the one after
        self.high = np.searchsorted(document, document, "right")  # its last
        if not len(self.rows):
            raise UserError(
                f"no document has two sentences of at most {longest} tokens, so there is no order to learn; "
                "give a longer --context, longer texts, or --tokenizer bpe"
            )
        if len(self.start) < 8:
            raise UserError(f"{len(self.start)} segments of text are too few to find foreign ones in; give more text")
        start, stop = store.texts()  # the marks between documents are no text
        lost = 1 - (self.stop - self.start).sum() / (stop - start).sum()
        if lost > MUCH:
            log.info(
                "%.0f %% of the text is in no segment: sentences of more than %d tokens; a longer --context has them",
                100 * lost, longest,
            )  # fmt: skip
        documents, paired = len(start), len(np.unique(document[self.rows]))
        if paired < documents:
            log.info("%d of %d documents have no two sentences: they make no pairs", documents - paired, documents)

    def __len__(self) -> int:
        return len(self.rows)

    def foreign(self, draw: Draw, near: float) -> np.ndarray:
        """(B,) number of the foreign segment of each row of a draw, a share `near` of them from the same document."""
        first = self.rows[draw.rows.numpy()]
        low, high = self.low[first], self.high[first]
        inside = draw.bernoulli("near", near, 1)[:, 0].numpy() & (high - low > 4)
        low, high = np.where(inside, low, 0), np.where(inside, high, len(self.start))
        # All from low to high, but for the four around A and B: number them from behind B.
        left, right = np.maximum(first - 1, low), np.minimum(first + 3, high)
        number = draw.integers("foreign", torch.from_numpy(np.maximum(high - low - (right - left), 1))[:, None], 1)
        place = right + number[:, 0].numpy()
        return np.where(place < high, place, low + place - high)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The segments of the drawn rows."""
        first = self.rows[draw.rows.numpy()]
        found: Batch = {}
        for name, rows in (("first", first), ("second", first + 1), ("foreign", self.foreign(draw, self.near))):
            one = padded(self.store, self.start[rows].tolist(), self.stop[rows].tolist(), self.longest)
            found |= {name: one["tokens"], f"{name}_length": one["tokens_length"]}
        return found

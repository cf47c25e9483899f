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


def around(points: NDArray, longest: int) -> NDArray:
    """(3, N) where a segment begins, where the next one does, and where that stops, in a document.

    Around each end of a sentence as many whole sentences to either side as fit. So what is in a segment says nothing of
    what it stands beside: sentences in random order leave no trace of which segment came first. Segments that are cut
    one after another, each where it is fullest, do: what follows one would not have fitted into it (docs/decisions.md).

    Args:
        points: (S + 1,) where the document begins, where its sentences end, and where it stops.
        longest: tokens in a segment. A sentence of more is in none.
    """
    fits = np.diff(points) <= longest
    middle = points[1:-1][fits[:-1] & fits[1:]]
    start = points[np.searchsorted(points, middle - longest)]
    stop = points[np.searchsorted(points, middle + longest, "right") - 1]
    return np.stack([start, middle, stop])


def segments(store: TokenStore, longest: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The pairs of segments of a store: (3, N) their places, (N,) their documents; and tokens in too long sentences."""
    words = Words.of(store.tokenizer)
    tables = np.stack([words.ends, words.closes, words.opens, words.wide, words.blank, words.line])
    ends = np.concatenate(
        [block + sentence_ends(store.read(block, block + BLOCK), tables) for block in range(0, len(store), BLOCK)]
    )
    places, numbers, lost = [np.empty((3, 0), np.int64)], [np.empty(0, np.int64)], 0
    for number, (start, stop) in enumerate(zip(*store.texts(), strict=True)):
        inside = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")]
        if len(inside) and words.blank[store.read(inside[-1], stop)].all():
            inside = inside[:-1]  # white space at the end of a document is no sentence
        points = np.concatenate([[start], inside, [stop]])
        sizes, found = np.diff(points), around(points, longest)
        lost += int(sizes[sizes > longest].sum())
        places.append(found)
        numbers.append(np.full(found.shape[1], number))
    return np.concatenate(places, 1), np.concatenate(numbers), lost


class SegmentReader(Reader):
    """A row is a segment A, the segment B that follows it in the same document, and a foreign one C.

    All are whole sentences: where one had to be cut, its place could be told from the torn end alone. What is too long
    for a segment is in no row. Neighboring rows overlap.

    C is the B of another row, drawn anew in every epoch: for a share `near` of the rows from the same document, for the
    others from any; it never overlaps A or B or touches them.

    Batch keys: `first`, `second`, `foreign` (B, longest) int64, each with its `..._length` (B,).
    """

    def __init__(self, store: TokenStore, longest: int, near: float = 0.0) -> None:
        """Segments of at most `longest` tokens.

        Raises:
            UserError: no document has two sentences that fit, or nothing in the text is foreign to one of them.
        """
        self.store, self.longest, self.near = store, longest, near
        (self.start, self.middle, self.stop), self.document, lost = segments(store, longest)
        if not len(self):
            raise UserError(
                f"no document has two sentences of at most {longest} tokens, so there is no order to learn; "
                "give a longer --context, longer texts, or --tokenizer bpe"
            )
        begins, ends = store.texts()
        self.first = np.searchsorted(self.document, np.arange(len(begins) + 1))  # row of each document
        _, _, left, right = self.bounds(np.arange(len(self)))
        if (right - left).max() == len(self):
            raise UserError(f"{len(self)} places between sentences are too few to find foreign ones; give more text")
        share = lost / (ends - begins).sum()  # the marks between documents are no text
        if share > MUCH:
            log.info(
                "%.0f %% of the text is in no segment: sentences of more than %d tokens; a longer --context has them",
                100 * share, longest,
            )  # fmt: skip
        documents, paired = len(begins), len(np.unique(self.document))
        if paired < documents:
            log.info("%d of %d documents have no two sentences: they make no pairs", documents - paired, documents)

    def __len__(self) -> int:
        return len(self.middle)

    def bounds(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(B,) low, high, left, right of some rows.

        From low to high, high excluded, are the rows of the same document; from left to right those of them whose B
        overlaps or touches A or B.
        """
        low, high = (self.first[self.document[rows] + behind] for behind in (0, 1))
        left = np.maximum(np.searchsorted(self.stop, self.start[rows]), low)
        right = np.minimum(np.searchsorted(self.middle, self.stop[rows], "right"), high)
        return low, high, left, right

    def foreign(self, draw: Draw, near: float) -> np.ndarray:
        """(B,) the row whose B is foreign to each row of a draw, a share `near` of them of the same document."""
        low, high, left, right = self.bounds(draw.rows.numpy())
        inside = draw.bernoulli("near", near, 1)[:, 0].numpy() & (high - low > right - left)
        low, high = np.where(inside, low, 0), np.where(inside, high, len(self))
        # All from low to high, but for those around the row: number them from behind these.
        number = draw.integers("foreign", torch.from_numpy(high - low - (right - left))[:, None], 1)
        place = right + number[:, 0].numpy()
        return np.where(place < high, place, low + place - high)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The segments of the drawn rows."""
        rows, others = draw.rows.numpy(), self.foreign(draw, self.near)
        found: Batch = {}
        for name, start, stop in (
            ("first", self.start[rows], self.middle[rows]),
            ("second", self.middle[rows], self.stop[rows]),
            ("foreign", self.middle[others], self.stop[others]),
        ):
            one = padded(self.store, start.tolist(), stop.tolist(), self.longest)
            found |= {name: one["tokens"], f"{name}_length": one["tokens_length"]}
        return found

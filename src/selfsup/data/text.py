"""Rows of text: windows of a flat token array, or the texts themselves."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.token_store import TokenStore
from selfsup.errors import UserError


def padded(store: TokenStore, starts: list[int], stops: list[int], width: int) -> Batch:
    """Stretches of a store as a batch: `tokens` (B, width) int64, zero beyond `tokens_length` (B,) int64."""
    tokens = np.zeros((len(starts), width), np.int64)
    length = np.empty(len(starts), np.int64)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        stretch = store.read(start, stop)
        tokens[i, : len(stretch)], length[i] = stretch, len(stretch)
    return {"tokens": torch.from_numpy(tokens), "tokens_length": torch.from_numpy(length)}


@lru_cache(maxsize=16)
def _phase(seed: int, epoch: int, context: int) -> int:
    """How many tokens before the start of the text the first window of an epoch begins."""
    return int(Draw(seed, epoch, torch.zeros(1, dtype=torch.int64)).integers("phase", context))


class WindowReader(Reader):
    """A row is a window of consecutive tokens, for a causal network with the token that follows each.

    The windows tile the text without padding. In every epoch of training they start at another phase, drawn from
    (seed, epoch), so that no token always stands at a window's edge; in validation (epoch -1) the phase is 0 and
    every token is seen exactly once (as a target, every token but the first). Windows at either end of the text may be
    shorter.

    Batch keys: `tokens` (B, context + ahead) int64, `tokens_length` (B,) int64.
    """

    def __init__(self, store: TokenStore, context: int, ahead: int = 1) -> None:
        """Windows of `context` tokens, each with the `ahead` tokens that follow it: 1 for a causal network, else 0."""
        self.store, self.context, self.ahead = store, context, ahead
        if len(store) < 2:
            raise UserError(f"{len(store)} tokens are too few for a window")

    def __len__(self) -> int:
        return -(-(len(self.store) - self.ahead) // self.context)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The windows of the drawn rows."""
        phase = _phase(draw.seed, draw.epoch, self.context) if draw.epoch >= 0 else 0
        starts = [row * self.context - phase for row in draw.rows.tolist()]
        width = self.context + self.ahead
        return padded(self.store, starts, [start + width for start in starts], width)


class TextReader(Reader):
    """A row is a text, or a piece of one that is longer than the network reads; no row holds parts of two.

    Batch keys: `tokens` (B, longest) int64, `tokens_length` (B,) int64.
    """

    def __init__(self, store: TokenStore, longest: int) -> None:
        """Texts in pieces of at most `longest` tokens; the marks between them are left out."""
        self.store, self.longest = store, longest
        start, stop = store.texts()
        pieces = -(-(stop - start) // longest)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of the piece in its text
        self.start = np.repeat(start, pieces) + number * longest
        self.stop = np.minimum(self.start + longest, np.repeat(stop, pieces))
        if not len(self.start):
            raise UserError("there is no text to read")

    def __len__(self) -> int:
        return len(self.start)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The texts of the drawn rows."""
        rows = draw.rows.numpy()
        return padded(self.store, self.start[rows].tolist(), self.stop[rows].tolist(), self.longest)


def windows_or_texts(store: TokenStore, context: int) -> WindowReader | TextReader:
    """Windows, or texts where most are shorter than half a window, so that a window would hold several strangers."""
    start, stop = store.texts()
    short = len(start) > 1 and float(np.median(stop - start)) < context / 2
    return TextReader(store, context) if short else WindowReader(store, context, ahead=0)

"""Rows of text: windows of a flat token array."""

from __future__ import annotations

import numpy as np
import torch

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.tokens import TokenStore
from selfsup.errors import UserError


class WindowReader(Reader):
    """A row is a window of T + 1 consecutive tokens: T inputs, each with the token after it.

    The windows tile the text without padding. In every epoch of training they start at another phase, drawn from
    (seed, epoch), so that no token always stands at a window's edge; in validation (epoch -1) the phase is 0 and
    every token but the first is a target exactly once. Windows at either end of the text may be shorter.

    Batch keys: `tokens` (B, T + 1) int64, `tokens_length` (B,) int64.
    """

    def __init__(self, store: TokenStore, context: int) -> None:
        self.store, self.context = store, context
        if len(store) < 2:
            raise UserError(f"{len(store)} tokens are too few for a window")

    def __len__(self) -> int:
        return -(-(len(self.store) - 1) // self.context)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The windows of the drawn rows."""
        phase = 0
        if draw.epoch >= 0:
            phase = int(Draw(draw.seed, draw.epoch, torch.zeros(1, dtype=torch.int64)).integers("phase", self.context))
        tokens = np.zeros((len(draw), self.context + 1), np.int64)
        length = np.empty(len(draw), np.int64)
        for i, row in enumerate(draw.rows.tolist()):
            start = row * self.context - phase
            window = self.store.read(start, start + self.context + 1)
            tokens[i, : len(window)], length[i] = window, len(window)
        return {"tokens": torch.from_numpy(tokens), "tokens_length": torch.from_numpy(length)}

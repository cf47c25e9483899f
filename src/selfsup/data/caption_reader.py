"""Rows of pictures, each with one of its captions."""

from __future__ import annotations

import logging

import numpy as np
import torch

from selfsup.data.captions import CaptionStore
from selfsup.data.draw import Draw
from selfsup.data.image import PictureReader
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.text import padded

log = logging.getLogger("selfsup")


class CaptionReader(Reader):
    """A row is a picture with one of its captions, drawn anew in each epoch.

    Batch keys: those of `PictureReader`; `text` (B, L) int64 with `text_length` (B,), a caption longer than the network
    reads cut off; `pair_id` (B, 2) int64, what is equal for equal pictures and for equal captions.
    """

    def __init__(self, store: CaptionStore, longest: int) -> None:
        """Captions of at most `longest` tokens."""
        self.store, self.longest, self.pictures = store, longest, PictureReader(store.pictures)
        size = np.diff(store.tokens.places)[:-1, 0]
        if (size > longest).any():
            log.info(
                "%d of %d captions are longer than %d tokens: what comes after is not read; a longer --context has it",
                (size > longest).sum(), len(size), longest,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.store)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The pictures of the drawn rows, and a caption of each."""
        rows, store = draw.rows.numpy(), self.store
        first, count = store.first[rows], np.diff(store.first)[rows]
        chosen = (draw.uniform("caption", 1)[:, 0].double().numpy() * count).astype(np.int64)
        numbers = store.numbers[first + np.minimum(chosen, count - 1)]
        start, stop = store.tokens.places[numbers].T
        text = padded(store.tokens, start.tolist(), np.minimum(stop, start + self.longest).tolist(), self.longest)
        digests = store.pictures.digests[store.pictures.rows[rows]].view(np.int64)
        return {
            **self.pictures.gather(draw),
            "text": text["tokens"],
            "text_length": text["tokens_length"],
            "pair_id": torch.from_numpy(np.stack([digests, numbers], 1)),
        }

"""Rows of pictures."""

from __future__ import annotations

import torch

from selfsup.data.draw import Draw
from selfsup.data.pixels import PixelStore
from selfsup.data.reader import Batch, Companions, Reader


class PictureReader(Reader):
    """A row is one prepared picture.

    Batch keys: `image` (B, R, R, C) uint8, the picture squashed to a square; `height`, `width` (B,) int32, its
    original size, with which a crop undoes the squash.
    """

    def __init__(self, store: PixelStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The pictures of the drawn rows."""
        rows = draw.rows.numpy()
        height, width = self.store.sizes(rows)
        return {
            "image": torch.from_numpy(self.store.pixels(rows)),
            "height": torch.from_numpy(height),
            "width": torch.from_numpy(width),
        }

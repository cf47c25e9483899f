"""Some of the rows of a reader."""

from __future__ import annotations

import numpy as np
import torch

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader


class Selection(Reader):
    """Some rows of another reader, numbered from 0; each is gathered by the numbers that it draws there.

    Batch keys: those of the other reader.
    """

    def __init__(self, reader: Reader, rows: np.ndarray) -> None:
        """Rows (M,) int64 of the other reader."""
        self.reader, self.rows = reader, torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The drawn rows; their companions are among the selected ones, too."""
        theirs = Draw(draw.seed, draw.epoch, self.rows[draw.rows], draw.prefix)
        if companions is None:
            return self.reader.gather(theirs)
        found = companions.rows[draw.rows]
        known = torch.full((len(self.reader), found.shape[1]), -1)
        known[theirs.rows] = self.rows[found].where(found >= 0, -1)
        return self.reader.gather(theirs, Companions(companions.step, known))

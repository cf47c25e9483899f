"""The contract of a reader: what a row is, and how rows become a raw batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from selfsup.data.draw import Draw

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Companions:
    """Other rows that belong to each row, such as mined negatives.

    Attributes:
        step: the step from which they are in force.
        rows: (N, K) int64.
    """

    step: int
    rows: Tensor


class Reader(ABC):
    """Turns rows into raw batches, on the CPU, in loader workers; picklable, without weights.

    Rows are numbered from 0; every random choice comes from the draw, so that a row's content depends on nothing
    but (seed, epoch, row).
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        """The raw batch of the rows of a draw; the first dimension of every entry is the row."""

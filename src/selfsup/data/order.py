"""The order of training: which rows stand in which step, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selfsup.errors import UserError


def permutation(rows: int, seed: int, epoch: int) -> np.ndarray:
    """(rows,) int64: the order of the rows in an epoch, from a counter-based generator of its own."""
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, epoch], np.uint64)  # a list of such numbers would become floats
    return np.random.Generator(np.random.Philox(key=key)).permutation(rows)


@dataclass(frozen=True)
class Order:
    """Steps of training as lists of rows, cut among processes and micro-batches.

    A batch never crosses an epoch; the remainder of an epoch is dropped.

    Attributes:
        rows: number of training rows.
        batch: rows in one step, over all processes.
        seed: seed of the run.
        world: number of processes.
        rank: the process that asks.
        micro: number of micro-batches a process splits its share into.
    """

    rows: int
    batch: int
    seed: int
    world: int = 1
    rank: int = 0
    micro: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be split.

        Raises:
            UserError: the batch is larger than the data, or no multiple of processes x micro-batches.
        """
        unit = self.world * self.micro
        largest = self.rows // unit * unit
        split = f"{self.world} processes x {self.micro} micro-batches"
        if not largest:
            raise UserError(f"{self.rows} rows are too few for {split}; use fewer")
        if self.batch > self.rows:
            raise UserError(f"--batch {self.batch} is larger than the data; the largest that fits is {largest}")
        if self.batch % unit:
            below = self.batch // unit * unit
            near = [size for size in range(below - unit, below + 3 * unit, unit) if 0 < size <= largest]
            sizes = ", ".join(map(str, near))
            raise UserError(f"--batch {self.batch} cannot be split over {split}; sizes that work: {sizes}")

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return self.rows // self.batch

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, rows) of every micro-batch of this process for the steps from `start` to before `stop`."""
        share = self.batch // self.world // self.micro
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(start, stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = permutation(self.rows, self.seed, epoch)
            first = (step % self.steps_per_epoch) * self.batch + self.rank * share * self.micro
            for part in range(self.micro):
                yield epoch, order[first + part * share : first + (part + 1) * share]

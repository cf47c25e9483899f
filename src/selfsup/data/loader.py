"""Raw batches in the order of training, read ahead by worker processes where asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.errors import UserError

Item = TypeVar("Item")
Rows = tuple[int, np.ndarray]  # epoch and row numbers of a batch


class _Batches(Dataset):
    """Whole batches by (epoch, rows)."""

    def __init__(self, reader: Reader, seed: int, companions: Companions | None) -> None:
        self.reader, self.seed, self.companions = reader, seed, companions

    def __getitem__(self, index: Rows) -> tuple[Batch, Draw]:
        epoch, rows = index
        draw = Draw(self.seed, epoch, torch.from_numpy(np.asarray(rows, np.int64)))
        return self.reader.gather(draw, self.companions), draw


class _Order(Sampler):
    """An order that was made elsewhere."""

    def __init__(self, order: Iterable[Rows]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[Rows]:
        return iter(self.order)


def _as_it_is(item: Item) -> Item:
    """Collate nothing: an item is a whole batch already."""
    return item


def _one_thread(worker: int) -> None:
    """Workers share the cores with the network; more threads in each would only wait for each other."""
    torch.set_num_threads(1)


def batches(
    reader: Reader, order: Iterable[Rows], seed: int, workers: int = 0, companions: Companions | None = None
) -> Iterator[tuple[Batch, Draw]]:
    """(raw batch, its draw) for each (epoch, rows) of an order, in that order.

    Args:
        reader: makes the batches; is copied into the workers.
        order: what to read.
        seed: of the draws.
        workers: processes that read ahead; 0 reads in this one. The batches are the same.
        companions: other rows that belong to each row.
    """
    loader = DataLoader(
        _Batches(reader, seed, companions),
        batch_size=None,
        sampler=_Order(order),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_one_thread,
        # Without a generator of its own the loader would draw a base seed from torch's global one.
        generator=torch.Generator().manual_seed(seed),
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except UserError as error:  # from a worker torch raises it anew with the worker's traceback as its text
        raise UserError(str(error).strip().rsplit("\n", 1)[-1].removeprefix("selfsup.errors.UserError: ")) from error

"""Batches: the same from any number of workers, in the order given, without the global generator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.data.draw import Draw
from selfsup.data.image import PictureReader
from selfsup.data.loader import batches
from selfsup.data.order import Order
from selfsup.data.part import label_column
from selfsup.data.pixels import open_pixels
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.source import open_source

PICTURES, SIDE = 30, 16


def reader_of(folder: Path, budget: int) -> PictureReader:
    part = open_source(folder).parts["train"]
    root = Path(os.environ["SELFSUP_CACHE"])
    return PictureReader(
        open_pixels(part.table, part.identity, SIDE, root, budget, lambda *_: None, label_column(part.table))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number:02}.jpg")
    (path / "05.jpg").write_bytes(b"broken")
    return path


class Echo(Reader):
    """Rows that tell who asked for them."""

    def __len__(self) -> int:
        return 100

    def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
        return {
            "row": draw.rows.clone(),
            "number": draw.uniform("x"),
            "threads": torch.tensor([torch.get_num_threads()]),
        }


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("budget", [10**9, 0])
def test_workers_and_cache_change_nothing(folder: Path, budget: int):
    order = list(Order(PICTURES, 8, seed=3).parts(0, 7))
    expected = list(batches(reader_of(folder, 10**9), order, seed=3))
    found = list(batches(reader_of(folder, budget), order, seed=3, workers=2))
    assert len(found) == len(expected) == 7
    for (batch, draw), (other, other_draw), (epoch, rows) in zip(found, expected, order, strict=True):
        assert batch.keys() == other.keys() == {"image", "height", "width"}
        assert all(torch.equal(batch[name], other[name]) for name in batch)
        assert batch["image"].shape == (8, SIDE, SIDE, 3) and batch["image"].dtype == torch.uint8
        assert draw.rows.tolist() == other_draw.rows.tolist() == rows.tolist()
        assert draw.epoch == epoch and torch.equal(draw.uniform("crop", 3), other_draw.uniform("crop", 3))


def test_an_order_is_read_lazily():
    """A run of a billion steps must not be listed first, and nothing is read beyond what is prefetched."""
    asked = []

    def endless() -> Iterator[tuple[int, np.ndarray]]:
        step = 0
        while True:
            asked.append(step)
            yield 0, np.array([step % 100])
            step += 1

    stream = batches(Echo(), endless(), seed=0)
    assert [int(next(stream)[0]["row"]) for _ in range(3)] == [0, 1, 2]
    assert len(asked) <= 4


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers: int):
    torch.manual_seed(11)
    np.random.seed(11)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(11)
    np.random.seed(11)
    found = list(batches(Echo(), [(0, np.array([1, 2])), (1, np.array([1, 2]))], seed=0, workers=workers))
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    assert not torch.equal(found[0][0]["number"], found[1][0]["number"])  # another epoch, other numbers


def test_workers_use_one_thread_each():
    ((batch, _),) = batches(Echo(), [(0, np.array([1]))], seed=0, workers=1)
    assert batch["threads"].tolist() == [1]


def test_an_error_in_a_worker_comes_out(folder: Path):
    class Broken(Echo):
        def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
            raise ValueError("row 1 is odd")

    for workers in (0, 1):
        with pytest.raises(ValueError, match="row 1 is odd"):
            list(batches(Broken(), [(0, np.array([1]))], seed=0, workers=workers))

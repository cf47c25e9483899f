"""Vectors on their way to a file: finished blocks of rows in a folder beside it, which a killed process leaves."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selfsup.errors import UserError
from selfsup.run import held, write_text, writing

WAIT = 0.1  # seconds between two looks at what other processes have done


@dataclass(frozen=True)
class Span:
    """Rows of a part of a source, one after the other."""

    part: str
    start: int
    stop: int


@dataclass(frozen=True)
class Blocks:
    """A folder with the vectors of each span that is done.

    Attributes:
        folder: of the blocks.
        spans: all that is to be done, in order.
        key: what the blocks are of; those of another key do not belong here.
    """

    folder: Path
    spans: Sequence[Span]
    key: Mapping[str, object]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder, made where it is not there, for one process (and those that it works with) at a time.

        Raises:
            UserError: another process works there, or the blocks are of something else, or it cannot be written.
        """
        with held(self.folder):
            self._check()
            yield

    def _check(self) -> None:
        """Raise `UserError` unless what is in the folder goes with the key; a new folder gets the key."""
        file, words = self.folder / "key.json", json.dumps(self.key, indent=2)
        if not file.exists():
            write_text(file, words)
            return
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            there = {}
        others = [name for name, value in json.loads(words).items() if name not in there or there[name] != value]
        if others:
            raise UserError(
                f"{self.folder} holds unfinished vectors, but their {' and '.join(others)} is another; "
                f"to start anew type rm -r {self.folder}, or give another --out"
            )

    def file(self, number: int) -> Path:
        """Where a block is, once it is done."""
        return self.folder / f"{number:06}.npy"

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not done."""
        there = {entry.name for entry in os.scandir(self.folder)}
        return [number for number in range(len(self.spans)) if self.file(number).name not in there]

    def done(self) -> int:
        """Rows of which there are vectors."""
        missing = set(self.missing())
        return sum(span.stop - span.start for number, span in enumerate(self.spans) if number not in missing)

    def wait(self) -> None:
        """Wait until every block is done, whoever does it."""
        while self.missing():
            time.sleep(WAIT)

    def wait_for_end(self) -> None:
        """Wait until the folder is gone: whoever holds it has put the blocks together."""
        while self.folder.exists():
            time.sleep(WAIT)

    def write(self, number: int, vectors: np.ndarray) -> None:
        """Keep a block; once this returns it survives whatever happens to the process or the machine.

        Args:
            number: of the block.
            vectors: (n, D) float32.

        Raises:
            UserError: it cannot be written.
        """
        file = self.file(number)
        fresh = file.with_suffix(".new")
        with writing(self.folder):
            with open(fresh, "wb") as target:
                np.save(target, vectors)
                target.flush()
                os.fsync(target.fileno())
            os.replace(fresh, file)

    def read(self) -> Iterator[tuple[Span, np.ndarray]]:
        """Each span with its (n, D) vectors, mapped into memory."""
        for number, span in enumerate(self.spans):
            yield span, np.load(self.file(number), mmap_mode="r")

    def shape(self) -> tuple[int, int]:
        """(N, D) of all blocks together."""
        width = np.load(self.file(0), mmap_mode="r").shape[1]
        return sum(span.stop - span.start for span in self.spans), width

    def remove(self) -> None:
        """Delete the folder; by a new name first, as half of it would be taken for work that is not finished."""
        gone = self.folder.with_name(self.folder.name + ".old")
        with writing(self.folder):
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(self.folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def write_npy(blocks: Blocks, file: Path) -> None:
    """Write all blocks as one array, without holding more than a block."""
    with open(file, "wb") as target:
        header = {"descr": "<f4", "fortran_order": False, "shape": blocks.shape()}
        np.lib.format.write_array_header_1_0(target, header)
        for _, vectors in blocks.read():
            target.write(np.ascontiguousarray(vectors, "<f4").data)


def write_parquet(blocks: Blocks, names: Callable[[Span], list[str]], file: Path) -> None:
    """Write all blocks as a table of `name`, `part` and `vector`, a row group each.

    Args:
        blocks: all done.
        names: gives the name of each row of a span.
        file: to write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32(), blocks.shape()[1])
    schema = pa.schema([("name", pa.string()), ("part", pa.string()), ("vector", vector)])
    with pq.ParquetWriter(file, schema) as writer:
        for span, vectors in blocks.read():
            flat = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(vectors).reshape(-1)), vectors.shape[1])
            columns = [pa.array(names(span)), pa.array([span.part] * len(vectors)), flat]
            writer.write_table(pa.table(columns, schema=schema))

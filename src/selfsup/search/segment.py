"""Rows that were added to an index together: vectors, what they stand for, and their words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfsup.search.words import Words

VECTORS = "vectors"  # float32, row after row
TABLE = "rows.parquet"
GROUP = 1024  # rows of the table that are read to see one
OWN = {  # columns of every table; others are what the user's documents have
    "id": pa.string(), "number": pa.int32(), "start": pa.int64(), "stop": pa.int64(), "text": pa.string(),
    "source": pa.string(), "stamp": pa.string(), "picture": pa.binary(),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A passage of a document, or a picture.

    Attributes:
        id: of the document.
        number: of the passage in it, from 0.
        start: first character of the passage in the document.
        stop: character after its last.
        text: of the passage; None for a picture.
        source: file that it was read from; None where there is none.
        stamp: what tells whether that file has changed since.
        picture: a small copy, PNG, of a picture without a file.
        about: further columns of the document.
    """

    id: str
    number: int
    start: int
    stop: int
    text: str | None
    source: str | None
    stamp: str | None
    picture: bytes | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Segment:
    """A segment in its folder: `vectors` of length 1, `rows.parquet`, and `words/` where the rows have text.

    Attributes:
        folder: of the segment.
        width: D, numbers in a vector.
        there: (N,) bool, the rows that count.
    """

    folder: Path
    width: int
    there: np.ndarray

    @cached_property
    def vectors(self) -> np.ndarray:
        """(N, D) float32, mapped into memory; what is written to it stays in memory."""
        return np.memmap(self.folder / VECTORS, np.float32, "c", shape=(len(self.there), self.width))

    @cached_property
    def words(self) -> Words | None:
        """None for pictures."""
        folder = self.folder / "words"
        return Words.load(folder) if folder.exists() else None

    def count_words(self) -> None:
        """Write `words/`."""
        Words.of(self.texts(), self._overlaps()).save(self.folder / "words")

    @cached_property
    def _table(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.folder / TABLE, memory_map=True)

    @cached_property
    def document(self) -> np.ndarray:
        """(N,) int64: how many documents end before that of each row."""
        return np.cumsum(self.column("number").to_numpy() == 0) - 1

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return self._table.schema_arrow.names

    def column(self, name: str) -> pa.ChunkedArray:
        """(N,) cells of a column."""
        return self._table.read([name]).column(0)

    def opened(self) -> Segment:
        """With everything mapped, so that it can be read when it has been forgotten."""
        _ = self.vectors, self.words, self._table
        return self

    def texts(self) -> Iterator[str]:
        """The text of every row."""
        for group in range(self._table.num_row_groups):
            yield from self._table.read_row_group(group, ["text"]).column(0).to_pylist()

    def _overlaps(self) -> Iterator[str]:
        """What of every row's text stands in the row before, too."""
        end = 0
        for group in range(self._table.num_row_groups):
            cells = self._table.read_row_group(group, ["number", "start", "stop", "text"]).to_pydict()
            for number, start, stop, text in zip(*cells.values(), strict=True):
                yield text[: max(end - start, 0)] if number else ""
                end = stop

    def alive(self, *names: str) -> Iterator[tuple[int, list[Any]]]:
        """(row, cells of some columns) of each row that counts."""
        columns = [self.column(name).to_pylist() for name in names]
        for row in np.flatnonzero(self.there).tolist():
            yield row, [column[row] for column in columns]

    def rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Some rows, as they are asked for."""
        groups: dict[int, pa.Table] = {}
        for number in numbers:
            group, place = divmod(number, GROUP)
            if group not in groups:
                groups[group] = self._table.read_row_group(group)
            cells = {name: groups[group][name][place].as_py() for name in self.columns}
            own = {name: cells.pop(name) for name in OWN}
            yield Row(**own, about=cells)


class TableWriter:
    """Writes the rows of a segment, in groups of `GROUP`."""

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        """For rows with further columns, kind by name."""
        self.about = list(about)
        kinds = {name: pa.type_for_alias(kind) for name, kind in about.items()}
        self.schema = pa.schema([*OWN.items(), *kinds.items()])
        self._writer = pq.ParquetWriter(folder / TABLE, self.schema)
        self._waiting: list[Row] = []

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._put(len(self._waiting))
        self._writer.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Some more."""
        self._waiting += rows
        self._put(len(self._waiting) // GROUP * GROUP)

    def _put(self, count: int) -> None:
        if not count:
            return
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        cells: dict[str, list[Any]] = {name: [vars(row)[name] for row in rows] for name in OWN}
        cells |= {name: [row.about.get(name) for row in rows] for name in self.about}
        self._writer.write_table(pa.table(cells, schema=self.schema), row_group_size=GROUP)

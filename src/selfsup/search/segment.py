"""Rows that were added to an index together: vectors, what they stand for, and their words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfsup.search.faiss_index import Finder, Kind
from selfsup.search.shelf import Named
from selfsup.search.words import Words

VECTORS = "vectors"  # float32, row after row
TABLE = "rows.arrow"  # not compressed: a row is read where it lies
GROUP = 1024  # rows of the table in each of its batches
ABOUT = "about."  # in front of the names of other columns, which are those of the user's documents
OWN = {  # columns of every table
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
        about: further columns of the document, but empty ones.
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
    """A segment in its folder: `vectors` of length 1, `rows.arrow`, `words/` where the rows have text, and a graph.

    Attributes:
        folder: of the segment.
        width: D, numbers in a vector.
        there: (N,) bool, the rows that count.
        spoken: whether its rows have words.
        kind: how its vectors are searched.
    """

    folder: Path
    width: int
    there: np.ndarray
    spoken: bool
    kind: Kind = "exact"

    @classmethod
    def of(cls, shelf: Path, named: Named, about: Mapping[str, Any]) -> Segment:
        """The one that a name stands for on a shelf, of an index made as `about` says."""
        there = np.ones(named.rows, bool)
        if named.gone is not None:
            there[np.load(shelf / named.gone)] = False
        return cls(shelf / named.name, about["width"], there, about["kind"] == "text", about["index"])

    @property
    def count(self) -> int:
        """Rows that count."""
        return int(np.count_nonzero(self.there))

    @cached_property
    def vectors(self) -> np.ndarray:
        """(N, D) float32, mapped into memory; what is written to it stays in memory."""
        return np.memmap(self.folder / VECTORS, np.float32, "c", shape=(len(self.there), self.width))

    @cached_property
    def words(self) -> Words | None:
        """None for pictures."""
        return Words.load(self.folder / "words") if self.spoken else None

    def count_words(self) -> None:
        """Write `words/`."""
        Words.of(self.texts(), self._overlaps()).save(self.folder / "words")

    @cached_property
    def finder(self) -> Finder | None:
        """Of near vectors; None where all are looked at."""
        return Finder.of(self.kind, self.folder, self.vectors)

    @cached_property
    def _table(self) -> pa.RecordBatchFileReader:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / TABLE)))

    @cached_property
    def _whole(self) -> pa.Table:
        return self._table.read_all()  # still mapped

    @property
    def schema(self) -> pa.Schema:
        """Names and types of all columns."""
        return self._table.schema

    @cached_property
    def document(self) -> np.ndarray:
        """(N,) int64: how many documents end before that of each row."""
        return np.cumsum(self.column("number").to_numpy() == 0) - 1

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return self.schema.names

    def column(self, name: str) -> pa.ChunkedArray:
        """(N,) cells of a column."""
        return self._whole.column(name)

    def opened(self) -> Segment:
        """With everything mapped, so that it can be read when it has been forgotten."""
        _ = self.vectors, self.finder, self.words, self._table
        return self

    def texts(self) -> Iterator[str]:
        """The text of every row."""
        for group in range(self._table.num_record_batches):
            yield from self._table.get_batch(group).column("text").to_pylist()

    def tables(self) -> Iterator[pa.Table]:
        """The rows that count, some at a time."""
        for group in range(self._table.num_record_batches):
            some = self.there[group * GROUP : (group + 1) * GROUP]
            yield pa.Table.from_batches([self._table.get_batch(group)]).filter(pa.array(some))

    def _overlaps(self) -> Iterator[str]:
        """What of every row's text stands in the row before, too."""
        end = 0
        for group in range(self._table.num_record_batches):
            cells = self._table.get_batch(group).select(["number", "start", "stop", "text"]).to_pydict()
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
        for number in numbers:
            group, place = divmod(number, GROUP)
            batch = self._table.get_batch(group)
            cells = {name: batch.column(name)[place].as_py() for name in self.columns}
            own = {name: cells.pop(name) for name in OWN}
            # Which columns there are beside depends on what a document was merged with; its own it has filled.
            about = {name.removeprefix(ABOUT): cell for name, cell in cells.items() if cell is not None}
            yield Row(**own, about=about)


class TableWriter:
    """Writes the rows of a segment, in groups of `GROUP`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """For rows with these columns, see `schema_of`."""
        self.schema = schema
        self._file = pa.OSFile(str(folder / TABLE), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self._waiting: list[pa.Table] = []
        self._count = 0  # rows that wait

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._put(self._count)
        self._writer.close()
        self._file.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Some more."""
        cells = {
            name: [vars(row)[name] if name in OWN else row.about.get(name.removeprefix(ABOUT)) for row in rows]
            for name in self.schema.names
        }
        self.write_table(pa.table(cells, schema=self.schema))

    def write_table(self, rows: pa.Table) -> None:
        """Some more; a column that they lack is empty."""
        empty = pa.nulls(len(rows))
        columns = [rows[name] if name in rows.column_names else empty for name in self.schema.names]
        cast = [column.cast(kind) for column, kind in zip(columns, self.schema.types, strict=True)]
        self._waiting.append(pa.table(cast, schema=self.schema))
        self._count += len(rows)
        if self._count >= GROUP:
            self._put(self._count // GROUP * GROUP)

    def _put(self, count: int) -> None:
        if not count:
            return
        whole = pa.concat_tables(self._waiting)
        self._waiting, self._count = [whole.slice(count)], self._count - count
        self._writer.write_table(whole.slice(0, count).combine_chunks(), max_chunksize=GROUP)


def schema_of(about: Mapping[str, pa.DataType]) -> pa.Schema:
    """The columns of rows that have these further ones."""
    return pa.schema([*OWN.items(), *((ABOUT + name, kind) for name, kind in about.items())])

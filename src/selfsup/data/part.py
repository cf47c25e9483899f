"""A part of a source: rows with columns by meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Image, Value

from selfsup.data.decode import encode_picture
from selfsup.data.store import fingerprint
from selfsup.errors import UserError, nearest

COLUMNS = ("image", "text", "texts", "query", "positive", "negative", "score", "label")
STRINGS = frozenset({"string", "large_string"})
READ = 256  # rows
BINARIES = frozenset({"binary", "large_binary"})


@dataclass(frozen=True)
class Part:
    """Rows with columns by meaning.

    Attributes:
        table: the rows; `image` cells, and the `text` cells of text files, are {"path", "bytes"}; other texts are
            strings.
        identity: a fingerprint that changes when the content does.
        folder: where relative paths in the rows begin.
    """

    table: Dataset
    identity: str
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.table)


def cell_name(table: Dataset, row: int) -> str:
    """The file of a row where it has one, else its number."""
    for column in ("image", "text"):
        if column in table.column_names:
            cell = table[row][column]
            if isinstance(cell, Mapping) and cell["path"]:
                return str(cell["path"])
    return f"row {row}"


def cell_names(table: Dataset, start: int, stop: int) -> list[str]:
    """`cell_name` of some rows, one after the other, by column, which is fast."""
    found, some = [f"row {row}" for row in range(start, stop)], table.select(range(start, stop))
    for column in ("text", "image"):  # of which a row has both, its picture names it
        if column in some.column_names and not isinstance(some.features[column], Value):
            for place, cell in enumerate(some[column]):
                if isinstance(cell, Mapping) and cell["path"]:
                    found[place] = str(cell["path"])
    return found


def cell_paths(table: Dataset) -> Iterator[tuple[str | None, bool]]:
    """The file of each `image` cell, and whether its bytes stand in the cell; a few rows at a time."""
    for some in table.select_columns("image").with_format("arrow").iter(READ):
        column = some.column("image").combine_chunks()
        yield from zip(column.field("path").to_pylist(), column.field("bytes").is_valid().to_pylist(), strict=True)


def label_column(table: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 labels, -1 for none, and the names of the classes in sorted order."""
    if "label" not in table.column_names:
        return np.full(len(table), -1), ()
    feature = table.features["label"]
    given = list(table["label"])
    if isinstance(feature, ClassLabel):
        given = [None if label is None or label < 0 else feature.int2str(label) for label in given]
    words = ["" if label is None else str(label) for label in given]
    classes = tuple(sorted(set(words) - {""}))
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(word, -1) for word in words], np.int64), classes


def with_column(table: Dataset, name: str, cells: list) -> Dataset:
    """The table with a column in the place of one of that name: cells of pictures, or strings."""
    feature = Image(decode=False) if name == "image" else Value("string")
    longer = table.add_column("column to come", cells, feature=feature)  # type: ignore[arg-type]
    # In this order, because a table without columns has no rows to add to.
    longer = longer.remove_columns(name) if name in table.column_names else longer
    return longer.rename_column("column to come", name)


def by_meaning(part: Part, columns: Mapping[str, str], name: str) -> Part:
    """The part with the user's columns named by meaning, pictures as cells and texts as strings; it drops nothing.

    Args:
        part: rows as the user has them.
        columns: meaning -> name of the user's column.
        name: what to call the source in a message.

    Raises:
        UserError: no such meaning, no such column, or a column that cannot hold what it means.
    """
    table = part.table
    for meaning, given in columns.items():
        if meaning not in COLUMNS:
            raise UserError(f"--columns {meaning}={given}: {meaning!r} is no meaning; {nearest(meaning, COLUMNS)}")
        if given not in table.column_names:
            known = nearest(given, table.column_names)
            raise UserError(f"{name}: no column {given!r} for --columns {meaning}={given}; {known}")
        if meaning in table.column_names and meaning != given:
            table = table.remove_columns(meaning)
        table = table.rename_column(given, meaning) if meaning != given else table
    if "image" in table.column_names:
        table = _pictures(table, part.folder, name)
    if "text" in table.column_names:
        table = _texts(table, name)
    identity = fingerprint([part.identity, *sorted(columns.items())]) if columns else part.identity
    return Part(table, identity, part.folder)


def _pictures(table: Dataset, folder: Path, name: str) -> Dataset:
    """The table with its `image` column as {"path", "bytes"} cells, not decoded."""
    feature = table.features["image"]
    kind = feature.dtype if isinstance(feature, Value) else ""
    if isinstance(feature, Image) or (isinstance(feature, dict) and feature.keys() >= {"bytes", "path"}):
        return table.cast_column("image", Image(decode=False))
    if kind in STRINGS:
        cells = [{"bytes": None, "path": str(folder / path) if path else None} for path in table["image"]]
    elif kind in BINARIES:
        cells = [{"bytes": content, "path": None} for content in table["image"]]
    else:
        try:
            cells = [{"bytes": encode_picture(np.asarray(value)), "path": None} for value in table["image"]]
        except ValueError as error:
            raise UserError(f"{name}: the column 'image' holds no pictures: {error}") from error
    return with_column(table, "image", cells)


def _texts(table: Dataset, name: str) -> Dataset:
    """The table with its `text` column as strings, or as the cells of text files."""
    feature = table.features["text"]
    kind = feature.dtype if isinstance(feature, Value) else ""
    if isinstance(feature, dict) and feature.keys() >= {"bytes", "path"}:
        return table
    if not kind:
        mend = "name another with --columns text=NAME, or lists of captions with texts=NAME"
        raise UserError(f"{name}: the column 'text' holds no strings but {feature}; {mend}")
    if kind in STRINGS:
        return table
    return with_column(table, "text", [None if value is None else str(value) for value in table["text"]])

"""Pictures with captions, prepared: squares, the tokens of distinct captions, and which captions a picture has."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from selfsup.data.part import Part, cell_name, cell_paths
from selfsup.data.pixels import PixelStore
from selfsup.data.store import fingerprint
from selfsup.data.token_store import TokenStore
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
SHOWN = 3  # rows that are named


@dataclass(frozen=True)
class Captioned:
    """A part of a source with one row a picture, and its captions.

    Attributes:
        part: the rows, of which each has a picture and one caption or more.
        captions: of each row; without white space at their ends, none empty, none twice.
    """

    part: Part
    captions: list[list[str]]


@dataclass(frozen=True)
class CaptionStore:
    """Prepared pictures with the tokens of their captions.

    Attributes:
        pictures: one a row.
        tokens: of distinct captions, each a document.
        texts: the same captions, in a column `text`.
        first: (N + 1,) int64, where the captions of each row begin in `numbers`.
        numbers: (M,) int64 numbers of captions; equal for equal ones.
    """

    pictures: PixelStore
    tokens: TokenStore
    texts: Dataset
    first: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies."""
        return self.tokens.tokenizer_folder

    def captions(self) -> list[list[str]]:
        """The captions of each row."""
        texts = list(self.texts["text"])
        bounds = zip(self.first[:-1], self.first[1:], strict=True)
        return [[texts[number] for number in self.numbers[start:stop]] for start, stop in bounds]


def captions_in(cell: object) -> list[str]:
    """The captions in a cell: a text, a list of texts, or, as a CSV has it, a list in JSON.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError):
            cell = json.loads(cell)
    cells = cell if isinstance(cell, list) else [cell]
    texts = [text for text in cells if text is not None]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return [text for text in dict.fromkeys(str(text).strip() for text in texts) if text]


def caption_column(table: Dataset) -> str | None:
    """The column of captions: `texts` where it is there, else `text`."""
    return next((name for name in ("texts", "text") if name in table.column_names), None)


def captioned(part: Part, name: str) -> Captioned:
    """The pictures of a part that have captions; rows of one file are one picture with the captions of all.

    What has none is counted and named.

    Raises:
        UserError: nothing has, or there is no column of captions.
    """
    column = caption_column(part.table)
    if column is None:
        have = ", ".join(part.table.column_names)
        raise UserError(
            f"{name}: no column 'text' or 'texts' with captions, only: {have}; name one with --columns text=NAME"
        )
    if column == "texts" and "text" in part.table.column_names:
        log.info("%s: captions are read from the column 'texts', not from 'text'", name)
    rows: dict[object, int] = {}  # of each file
    captions: dict[int, list[str]] = {}
    for row, ((path, embedded), cell) in enumerate(zip(cell_paths(part.table), part.table[column], strict=True)):
        # A picture that stands in its cell may have the same name as one from another folder.
        first = row if path is None or embedded else rows.setdefault(path, row)
        try:
            captions.setdefault(first, []).extend(captions_in(cell))
        except TypeError:
            hint = f"strings or lists of strings are; name another column with --columns {column}=NAME"
            raise UserError(
                f"{name}, row {row}: the column {column!r} holds {str(cell)[:40]!r}, no caption; {hint}"
            ) from None
    bare = [row for row, texts in captions.items() if not texts]
    found = {row: list(dict.fromkeys(texts)) for row, texts in captions.items() if texts}
    if not found:
        raise UserError(f"{name}: none of the {len(part)} rows has a caption in the column {column!r}")
    if bare:
        which = ", ".join(cell_name(part.table, row) for row in bare[:SHOWN])
        log.warning(
            "%s: %d of %d pictures have no caption and are left out (%s%s)", name, len(bare), len(captions), which,
            ", ..." if len(bare) > SHOWN else "",
        )  # fmt: skip
    table = part.table.select(list(found))
    identity = fingerprint([part.identity, "captioned", column])
    return Captioned(Part(table, identity, part.folder), list(found.values()))


def readable(store: PixelStore) -> np.ndarray:
    """Rows whose own picture can be read: another's would not be what the caption says."""
    return np.flatnonzero(store.good[store.rows] == store.rows)


def numbered(captions: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Distinct captions, (N + 1,) where those of each row begin, and (M,) their numbers."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(text, len(known)) for texts in captions for text in texts]
    first = np.cumsum([0, *(len(texts) for texts in captions)])
    return list(known), first.astype(np.int64), np.array(numbers, np.int64)


def texts_part(texts: list[str], identity: str) -> Part:
    """Captions as documents."""
    return Part(Dataset.from_dict({"text": texts}), fingerprint([identity, *texts]))


def in_tokens(
    found: Captioned, pictures: PixelStore, rows: np.ndarray, tokens: TokenStore, texts: Part
) -> CaptionStore:
    """Some rows with their captions; captions without any token, and rows that are left with none, are left out.

    Args:
        found: captions of all rows.
        pictures: all rows.
        rows: which of them.
        tokens: of the captions of these, distinct ones in their order.
        texts: the same captions.
    """
    _, first, numbers = numbered([found.captions[row] for row in rows.tolist()])
    empty = tokens.places[:-1, 0] == tokens.places[:-1, 1]
    kept = ~empty[numbers]
    count = np.add.reduceat(kept.astype(np.int64), first[:-1])
    if not kept.all():
        log.warning("%d of %d captions have no token and are left out", (~kept).sum(), len(kept))
    some = count > 0
    bounds = np.cumsum(np.concatenate([[0], count[some]]))
    return CaptionStore(pictures.subset(rows[some]), tokens, texts.table, bounds, numbers[kept])

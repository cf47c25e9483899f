"""Pairs of texts with a number each, a graded score or a label, as users have them."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from datasets import Dataset, Value

from selfsup.data.source import GIVEN, Data, open_source
from selfsup.errors import UserError
from selfsup.prepare import columns_of

log = logging.getLogger("selfsup")
Number = Literal["score", "label"]
SIDES = {"query": "sentence1", "positive": "sentence2"}  # by meaning, and what is taken where that is absent
NAMED = 3  # rows that a message names


@dataclass(frozen=True)
class TextPairs:
    """Pairs of texts.

    Attributes:
        name: of the source.
        split: which part of it.
        first: N texts.
        second: N texts.
        numbers: (N,) float64: scores, or labels 0 and 1.
    """

    name: str
    split: str
    first: list[str]
    second: list[str]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, rows: np.ndarray, split: str | None = None) -> TextPairs:
        """Some of the pairs, in the order given."""
        first, second = ([side[row] for row in rows.tolist()] for side in (self.first, self.second))
        return TextPairs(self.name, split or self.split, first, second, self.numbers[rows])

    def halves(self) -> tuple[TextPairs, TextPairs]:
        """Two halves by content: equal pairs always fall on one side."""
        sides = zip(self.first, self.second, strict=True)
        digests = (
            hashlib.blake2b("\n".join(pair).encode("utf-8", "replace"), digest_size=1).digest() for pair in sides
        )
        half = np.array([digest[0] % 2 for digest in digests])
        split = "half by content" if self.split == "train" else f"half of {self.split} by content"
        return self.chosen(np.flatnonzero(half == 0), split), self.chosen(np.flatnonzero(half == 1), split)


def score(value: object) -> float | None:
    """A cell as a score; None where it is none.

    Raises:
        ValueError: it is no number.
    """
    if value is None or value == "":
        return None
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def label(value: object) -> float | None:
    """A cell as 0 or 1; None where it is none, as -1 says.

    Raises:
        ValueError: it is another.
    """
    words = {"true": 1.0, "false": 0.0}
    text = str(value).lower()
    number = words[text] if text in words else score(value)
    if number is None or number == -1:
        return None
    if number not in (0, 1):
        raise ValueError(value)
    return number


READ: dict[Number, tuple[Callable[[object], float | None], str]] = {
    "score": (score, "numbers"),
    "label": (label, "0 and 1"),
}


def _columns(table: Dataset, part: str, name: str, number: Number) -> list[str]:
    """Names of the columns that hold the two texts and the number.

    Raises:
        UserError: one is missing.
    """
    have = table.column_names
    found = [meaning if meaning in have else other for meaning, other in SIDES.items()]
    missing = [meaning for meaning, column in zip(SIDES, found, strict=True) if column not in have]
    missing += [number] if number not in have else []
    if missing:
        raise UserError(
            f"{name}: the {part} part has no column {' and no column '.join(map(repr, missing))}, only: "
            f"{', '.join(have)}; name them with --columns {' '.join(f'{meaning}=NAME' for meaning in missing)}"
        )
    return [*found, number]


def _numbers(cells: Sequence[object], number: Number, where: str) -> np.ndarray:
    """(N,) float64, not a number where there is none.

    Raises:
        UserError: a cell is neither.
    """
    read, allowed = READ[number]
    found = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        try:
            value = read(cell)
        except (TypeError, ValueError):
            hint = f"; give them, or name another column with --columns {number}=NAME"
            raise UserError(f"{where}, row {row}: the {number} {cell!r} is not allowed, {allowed} are{hint}") from None
        found[row] = np.nan if value is None else value
    return found


def _open(table: Dataset, part: str, name: str, number: Number) -> TextPairs:
    """The pairs of one part that have two texts and a number; how many have not is said."""
    columns = _columns(table, part, name, number)
    for column in columns[:2]:
        if not isinstance(table.features[column], Value):
            hint = "name another with --columns query=NAME positive=NAME"
            raise UserError(f"{name}: the column {column!r} holds no texts but {table.features[column]}; {hint}")
    sides = [["" if text is None else str(text) for text in table[column]] for column in columns[:2]]
    numbers = _numbers(list(table[columns[2]]), number, f"{name}: {part} part")
    empty = [row for row, pair in enumerate(zip(*sides, strict=True)) if not all(text.strip() for text in pair)]
    bare = np.flatnonzero(np.isnan(numbers)).tolist()
    good = np.setdiff1d(np.arange(len(numbers)), [*empty, *bare])
    for rows, what in ((empty, "an empty text"), (bare, f"no {number}")):
        if rows and len(good):  # a part without any is passed over
            named = f"row {', '.join(map(str, rows[:NAMED]))}{', ...' if len(rows) > NAMED else ''}"
            log.warning("%s: %d of %d pairs of the %s part left out: %s (%s)", name, len(rows), len(numbers), part,
                        what, named)  # fmt: skip
    return TextPairs(name, part, sides[0], sides[1], numbers).chosen(good)


def open_pairs(
    data: Data | None, columns: tuple[str, ...], cache: str | None, number: Number, most: int
) -> list[TextPairs]:
    """The parts of a source that hold such pairs, the part to score first: `test`, else `valid`, else `train`.

    The texts are the columns `query` and `positive`, or `sentence1` and `sentence2`. A part without a single pair that
    has a number, as the test parts of benchmarks are, is passed over.

    Args:
        data: any source.
        columns: `meaning=name` pairs.
        cache: folder for what reading tables writes.
        number: what each pair has.
        most: parts that are needed.

    Raises:
        UserError: no such source or columns, or no pairs in it.
    """
    needed = f"pairs of texts with a {number}, in the columns query, positive (or sentence1, sentence2) and {number}"
    if data is None:
        raise UserError(f"--data is missing: {needed}")
    source = open_source(data, columns_of(columns), cache)
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else GIVEN
    tables = {part: source.parts[part].table for part in ("test", "valid", "train") if part in source.parts}
    numbered = {part: table for part, table in tables.items() if number in table.column_names}
    found: list[TextPairs] = []
    for part, table in (numbered or tables).items():
        pairs = _open(table, part, name, number)
        if len(pairs):
            found.append(pairs)
        if len(found) == most:
            break
    if not found:
        raise UserError(f"{name}: none of its rows has two texts and a {number}; needed are {needed}")
    if found[0].split != next(iter(tables)):
        log.warning("%s: the %s part has no pair with a %s; scored is the %s part", name, next(iter(tables)), number,
                    found[0].split)  # fmt: skip
    return found

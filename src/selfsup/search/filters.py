"""Conditions on the further columns of documents, such as year>=2000."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfsup.errors import UserError, nearest
from selfsup.search.segment import ABOUT, OWN, Segment

KINDS: dict[str, Callable[..., pa.ChunkedArray]] = {
    "!=": pc.not_equal, ">=": pc.greater_equal, "<=": pc.less_equal, "=": pc.equal, ">": pc.greater, "<": pc.less,
}  # fmt: skip
PLAIN = ("id", "source")  # of the columns that every index has


@dataclass(frozen=True)
class Condition:
    """A column, how it compares, and with what; an empty cell fulfils none."""

    column: str
    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read COLUMN=VALUE, or with != < <= > >=.

        Raises:
            UserError: it is none.
        """
        found = re.match(r"\s*([^=<>!]+?)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*$", text)
        if not found:
            raise UserError(
                f"--where {text!r}: allowed is COLUMN=VALUE, or with {', '.join(KINDS)}; such as year>=2000"
            )
        return cls(*found.groups())

    def fulfilled(self, segment: Segment) -> np.ndarray:
        """(N,) bool of all rows of a segment; none where it has no such column.

        Raises:
            UserError: the column holds numbers, and the value is none.
        """
        name = column_of(segment, self.column)
        if name is None:
            return np.zeros(len(segment.there), bool)
        cells = segment.column(name)
        if pa.types.is_integer(cells.type) and re.search(r"[.eE]", self.value):
            cells = cells.cast(pa.float64())
        try:
            value = pa.scalar(self.value).cast(cells.type)
            return KINDS[self.kind](cells, value).fill_null(False).to_numpy().astype(bool)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"--where {self.column}{self.kind}{self.value}: the column holds {cells.type}") from error


def column_of(segment: Segment, name: str) -> str | None:
    """What a column of the user's is called in the table of a segment; None where it has none."""
    return next((one for one in (ABOUT + name, name) if one in segment.columns and (one != name or one in PLAIN)), None)


def allowed(segments: Sequence[Segment], conditions: Sequence[Condition]) -> list[np.ndarray]:
    """(N,) bool for each segment: rows that count and fulfil all conditions.

    Raises:
        UserError: a column that no segment has.
    """
    known = {name.removeprefix(ABOUT) for one in segments for name in one.columns if name not in OWN} | {*PLAIN}
    for one in conditions:
        if one.column not in known:
            raise UserError(f"--where: the documents have no column {one.column!r}; {nearest(one.column, known)}")
    found = [segment.there.copy() for segment in segments]
    for one in conditions:
        refused: list[UserError] = []
        for segment, there in zip(segments, found, strict=True):
            try:
                there &= one.fulfilled(segment)
            except UserError as error:  # a column may hold numbers in one segment and words in another
                there[:] = False
                refused.append(error)
        if refused and len(refused) == sum(column_of(segment, one.column) is not None for segment in segments):
            raise refused[0]
    return found

"""What a search found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from selfsup.search.index import Index
from selfsup.search.ranking import Ranking
from selfsup.search.writing import file_stamp


@dataclass(frozen=True)
class Hit:
    """A document that was found, with its best passage; or a passage.

    Attributes:
        id: of the document.
        score: what it was ranked by: a cosine, a BM25 score, or a sum of reciprocal ranks.
        text: the passage; None for a picture.
        start: first character of the passage in the document.
        stop: character after its last.
        source: file of the document; None where there is none.
        state: of that file since it was indexed: `same`, `changed` or `gone`; None where there is no file.
        about: further columns of the document.
        picture: a small copy, PNG, of a picture without a file.
    """

    id: str
    score: float
    text: str | None
    start: int
    stop: int
    source: str | None
    state: str | None
    about: dict[str, Any]
    picture: bytes | None = field(default=None, repr=False)

    def spoken(self) -> dict[str, Any]:
        """As plain values that JSON has, without the picture."""
        about = {name: _plain(cell) for name, cell in self.about.items()}
        return {name: value for name, value in vars(self).items() if name != "picture"} | {"about": about}


def hits_of(index: Index, ranking: Ranking) -> Iterator[Hit]:
    """A hit for each row of a ranking."""
    for (number, place), score in ranking:
        row = next(index.segments[number].rows([place]))
        state = _state(row.source, row.stamp)
        yield Hit(row.id, score, row.text, row.start, row.stop, row.source, state, row.about, row.picture)


def _plain(cell: object) -> object:
    """A cell as JSON has it: dates and the like in words, nothing for what is no number."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell if isinstance(cell, bool | int | float | str) else str(cell)


def _state(source: str | None, stamp: str | None) -> str | None:
    """Whether a file is as it was when it was indexed."""
    if source is None:
        return None
    now = file_stamp(source)
    return "gone" if now is None else "same" if (stamp or "").startswith(f"{now} ") else "changed"

"""Results of several runs, put together by label set: what a table and a picture of them show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from selfsup.eval.result import Result, labels_seen

COLUMNS = {"knn": "kNN", "linear": "linear", "layer": "best layer", "fine-tune": "fine-tuned", "rank": "rank"}


@dataclass(frozen=True)
class Panel:
    """One label set.

    Attributes:
        title: its name and the part that is scored.
        chance: accuracy of naming the commonest class.
        cells: who -> column, such as `linear 1 %` -> result.
    """

    title: str
    chance: float
    cells: dict[str, dict[str, Result]] = field(default_factory=dict)


def panels_of(rows: Sequence[Result]) -> list[Panel]:
    """A panel for each label set, runs and columns in the order of the results."""
    names = short_names(list(dict.fromkeys(row["run"] for row in rows if row["representation"] == "run")))
    sets = short_names(list(dict.fromkeys(row["data"] for row in rows if row["task"] in COLUMNS)))
    found: dict[str, Panel] = {}
    for row in rows:
        if row["task"] in COLUMNS:
            data = row["data"]
            if data not in found:
                found[data] = Panel(f"{sets[data]} ({row['split']})", row["chance"])
            column = COLUMNS[row["task"]]
            if row["task"] in ("linear", "fine-tune"):
                column = f"{column} {labels_seen(row)}"
            who: str = row["run"]
            found[data].cells.setdefault(names.get(who, who), {})[column] = row
    return list(found.values())


def short_names(places: Sequence[str]) -> dict[str, str]:
    """Each place by the end of its path, where that tells them apart."""
    found = {place: place if ":" in place else os.path.basename(os.path.normpath(place)) for place in places}
    return {place: name if list(found.values()).count(name) == 1 else place for place, name in found.items()}

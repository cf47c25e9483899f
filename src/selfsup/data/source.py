"""What the user has, as tables: a path, a hub id, a sample, or objects handed over in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfsup.data.files import parts_of_path
from selfsup.data.handed_over import Objects, part_of_columns, parts_of_hub, parts_of_objects
from selfsup.data.part import Part, by_meaning
from selfsup.data.samples import load_sample
from selfsup.data.store import cache_root
from selfsup.errors import UserError

Data = str | os.PathLike | Objects


@dataclass(frozen=True)
class Source:
    """What the user has: `train`, and `valid` and `test` where the user made such parts."""

    name: str
    parts: dict[str, Part]

    def require(self, column: str) -> None:
        """Raise `UserError` unless every part has the column."""
        for part, content in self.parts.items():
            if column not in content.table.column_names:
                have = ", ".join(content.table.column_names) or "none"
                raise UserError(
                    f"{self.name}: the {part} part has no column {column!r}, only: {have}; "
                    f"name one with --columns {column}=NAME"
                )


GIVEN = "data given in Python"  # what a run calls a source that has no name


def open_source(data: Data, columns: Mapping[str, str] | None = None, cache: str | None = None) -> Source:
    """Open what the user has.

    Args:
        data: a path (folder of pictures or of text files, one text file, CSV / TSV / JSONL / Parquet), `hf:<id>`,
            `sample:<name>`, or in Python: arrays, a list of PIL images or strings, a `datasets.Dataset`,
            a torch dataset.
        columns: meaning -> name of the user's column, such as {"positive": "sentence2"}.
        cache: folder for what reading tables writes.

    Raises:
        UserError: nothing is there, or it holds nothing that can be learned from.
    """
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
        if name == GIVEN:
            raise UserError(f"{name} has to be given again: in Python, as data=..., or name a path with --data")
        if name.startswith("sample:"):
            sample = load_sample(name.removeprefix("sample:"))
            parts = {part: part_of_columns(content) for part, content in sample.items()}
        elif name.startswith("hf:"):
            parts = parts_of_hub(name.removeprefix("hf:"))
        else:
            parts = parts_of_path(Path(name).expanduser(), cache_root(cache) / "tables")
    else:
        name, parts = GIVEN, parts_of_objects(data)
    for part, content in parts.items():
        if not len(content):
            raise UserError(f"{name}: the {part} part is empty")
    parts = {part: by_meaning(content, columns or {}, name) for part, content in parts.items()}
    if "train" not in parts:  # a lone test part, or parts of other names
        first, *others = parts
        parts = {"train": parts[first], **{part: parts[part] for part in others}}
    return Source(name, parts)

"""Data handed over in Python, or fetched from the hub, as the parts of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, DatasetDict, Image

from selfsup.data.decode import BROKEN, encode_picture
from selfsup.data.part import Part
from selfsup.data.store import fingerprint
from selfsup.errors import UserError

PARTS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid"}
PARTS |= {"dev": "valid", "test": "test", "testing": "test"}
KINDS = "a path, arrays, a list of PIL images or strings, a datasets.Dataset or a torch dataset with a length"


class Examples(Protocol):
    """Any torch dataset of the map style."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


Objects = Dataset | DatasetDict | Mapping[str, Any] | np.ndarray | Sequence | Examples


def parts_of_hub(name: str) -> dict[str, Part]:
    """A data set of the Hugging Face hub; the only kind of source that uses the network.

    Raises:
        UserError: it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        found = load_dataset(name)
    except Exception as error:  # many kinds, from a missing network to a refused token
        reason = " ".join(str(error).split())[:160]
        end = "check the id and the network, or give a path"
        raise UserError(f"hf:{name} cannot be loaded ({reason}); {end}") from error
    return parts_of_objects(found)  # type: ignore[arg-type]


def parts_of_objects(data: Objects) -> dict[str, Part]:
    """The parts of objects handed over in Python; a dictionary holds one object a part.

    Raises:
        UserError: they are of no kind that can be opened, or none are there.
    """
    if isinstance(data, DatasetDict):
        tables: dict[Any, Dataset] = dict(data)  # type: ignore[arg-type]
        return {PARTS.get(str(name), str(name)): _table(table) for name, table in tables.items()}
    if isinstance(data, Dataset):
        return {"train": _table(data)}
    if isinstance(data, Mapping):
        given: dict[str, Any] = {str(name): part for name, part in dict(data).items()}  # type: ignore[call-overload]
        unknown = sorted(given.keys() - PARTS)
        if unknown:
            raise UserError(f"a dictionary holds one object a part: {', '.join(PARTS)}; given: {', '.join(unknown)}")
        return {PARTS[name]: parts_of_objects(part)["train"] for name, part in given.items()}
    if isinstance(data, np.ndarray) and data.ndim == 0:
        raise UserError(f"an array of shape () cannot be opened; allowed: {KINDS}")
    try:
        rows = [data[i] for i in range(len(data))]
    except (TypeError, KeyError) as error:
        raise UserError(f"data of type {type(data).__name__} cannot be opened; allowed: {KINDS}") from error
    if not rows:
        raise UserError("the data given in Python has no rows")
    return {"train": part_of_columns(_columns(rows))}


def part_of_columns(columns: Mapping[str, Sequence]) -> Part:
    """A part of columns in memory; pictures are kept encoded.

    Raises:
        UserError: a picture is none.
    """
    content: dict[str, list[Any]] = {}
    for name, values in columns.items():
        content[name] = _pictures(values) if name == "image" else [_plain(value) for value in values]
    identity = fingerprint(fingerprint([name, *content[name]]) for name in sorted(content))
    table = Dataset.from_dict(content)
    return Part(table.cast_column("image", Image(decode=False)) if "image" in content else table, identity)


def _pictures(values: Sequence) -> list[dict[str, Any]]:
    cells = []
    for row, value in enumerate(values):
        try:
            cells.append({"bytes": encode_picture(value), "path": None})
        except BROKEN as error:
            raise UserError(f"row {row} of the data given in Python is no picture: {error}") from error
    return cells


def _plain(value: Any) -> Any:  # noqa: ANN401 - what it is, is the question
    """A value as Python's own type: numpy's and torch's numbers print differently and fit in no column."""
    if isinstance(value, str | int | float | Mapping | Sequence) or value is None:
        return value
    return np.asarray(value).tolist()


def _columns(rows: list[Any]) -> dict[str, list[Any]]:
    """Columns of rows that are pictures, strings, dictionaries, or tuples of one of these and a label."""
    first = rows[0]
    if isinstance(first, Mapping):
        return {str(name): [row[name] for row in rows] for name in first}
    if isinstance(first, tuple) and len(first) in (1, 2):
        columns = _columns([row[0] for row in rows])
        return columns if len(first) == 1 else {**columns, "label": [str(_plain(row[1])) for row in rows]}
    return {"text" if isinstance(first, str) else "image": rows}


def _table(table: Dataset) -> Part:
    return Part(table, fingerprint([table._fingerprint, len(table)]))

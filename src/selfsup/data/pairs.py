"""Texts that belong together, as users have them: columns of a table, or titles with what follows."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset

from selfsup.data.documents import is_held_out, whole_documents
from selfsup.data.part import Part
from selfsup.data.store import fingerprint, stored
from selfsup.data.tokens import Bad, Progress
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
Kind = Literal["columns", "title"]
NAMES = ("train", "held_out")
MISSING = 0.2  # of the rows may lack a text; more of them are a mistake in the columns
SHOWN = 3  # rows that are named
BATCH = 1000


@dataclass(frozen=True)
class Prompts:
    """What is put in front of a text by what it is."""

    query: str = ""
    document: str = ""


@dataclass(frozen=True)
class Group:
    """One row: a query, a text that answers it, others that do not, and how alike the first two are, if it is told."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: float | None = None


def has_pairs(table: Dataset) -> bool:
    """Whether there are columns of pairs."""
    return {"query", "positive"} <= set(table.column_names)


def negative_columns(table: Dataset) -> list[str]:
    """The columns `negative`, `negative_1`, `negative_2`, ... that are there, in order of their numbers."""
    numbered = [name for name in table.column_names if name.startswith("negative_") and name[9:].isdigit()]
    return ["negative"] * ("negative" in table.column_names) + sorted(numbered, key=lambda name: int(name[9:]))


def _listed(cell: object) -> list[str]:
    """The texts of a cell, which holds one or a list; those without a letter in them are none."""
    cells = cell if isinstance(cell, list) else [cell]
    return [str(text) for text in cells if text is not None and str(text).strip()]


def _score(cell: object) -> float | None:
    """A number, or None for what is none."""
    try:
        found = float(str(cell))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def groups(table: Dataset, bad: Bad) -> Iterator[Group]:
    """The rows of a table with the columns `query` and `positive`, and where it is there `score`, else `negative...`.

    A cell may hold a list: of several positives each makes a row. What lacks something is added to `bad`.
    """
    scored = "score" in table.column_names
    negatives = [] if scored else negative_columns(table)  # CoSENT compares pairs by their scores alone
    wanted = table.select_columns(["query", "positive", *negatives, *["score"] * scored])
    number = 0
    for some in wanted.iter(batch_size=BATCH):
        for row, (query, positive) in enumerate(zip(some["query"], some["positive"], strict=True), number):
            at = row - number
            queries, positives = _listed(query), _listed(positive)
            score = _score(some["score"][at]) if scored else None
            lacks = "query" if not queries else "positive" if not positives else "score" * (scored and score is None)
            if lacks:
                bad.append((row, f"row {row}", f"no {lacks}"))
                continue
            others = tuple(text for name in negatives for text in _listed(some[name][at]))
            yield from (Group(queries[0], text, others, score) for text in positives)
        number += len(some["query"])


def lacking(bad: Bad, of: int, refusing: bool = True) -> str:
    """What to say of the rows that make no pair; nothing where all do.

    Raises:
        UserError: there are too many, which is a mistake in the columns, and `refusing`.
    """
    if not bad:
        return ""
    which = "; ".join(f"{name}: {reason}" for _, name, reason in bad[:SHOWN])
    said = f"{len(bad)} of {of} rows make no pair ({which}{'; ...' if len(bad) > SHOWN else ''})"
    if refusing and len(bad) > MISSING * of:
        raise UserError(f"{said}; name other columns with --columns query=NAME positive=NAME, or take such rows out")
    return said


def titles(table: Dataset, bad: Bad) -> Iterator[Group]:
    """The first line of each document with the rest of it; a document of one line is added to `bad`."""
    for row, text in enumerate(whole_documents(table, bad)):
        title, _, body = text.strip().partition("\n")
        if body.strip():
            yield Group(title.strip(), body.strip())
        else:
            bad.append((row, f"row {row}", "one line only"))


@dataclass
class _Side:
    """One side of the split while it is written: distinct texts to a file, rows as their numbers.

    Attributes:
        writer: of the texts.
        numbers: (prompt, text) by digest -> number of the text.
        names: text by digest, whatever its prompt -> its identity.
        identity: of each text.
    """

    writer: pa.ipc.RecordBatchStreamWriter
    numbers: dict[bytes, int] = field(default_factory=dict)
    names: dict[bytes, int] = field(default_factory=dict)
    identity: list[int] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    def number(self, text: str, prompt: str) -> int:
        """The number of a text, written first where it is new."""
        name = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        key = blake2b(name + prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            self.identity.append(self.names.setdefault(name, len(self.names)))
            self.waiting.append(prompt + text)
            if len(self.waiting) == BATCH:
                self.flush()
        return self.numbers[key]

    def add(self, group: Group, prompts: Prompts) -> None:
        """Keep a row."""
        documents = (group.positive, *group.negatives)
        row = self.number(group.query, prompts.query), *(self.number(text, prompts.document) for text in documents)
        self.rows.append(row)
        if group.score is not None:
            self.scores.append(group.score)

    def flush(self) -> None:
        """Write the texts that wait."""
        texts = [text.encode("utf-8", "replace").decode() for text in self.waiting]  # of halves of characters
        self.writer.write_batch(pa.record_batch({"text": pa.array(texts, pa.string())}))
        self.waiting.clear()

    def save(self, folder: Path, name: str) -> None:
        """Write the rows."""
        self.flush()
        width = max(map(len, self.rows), default=2)
        table = np.full((len(self.rows), width), -1, np.int32)
        for number, row in enumerate(self.rows):
            table[number, : len(row)] = row
        np.save(folder / f"{name}.rows.npy", table)
        np.save(folder / f"{name}.identity.npy", np.array(self.identity, np.int32))
        np.save(folder / f"{name}.scores.npy", np.array(self.scores, np.float32))


def _write(folder: Path, part: Part, kind: Kind, prompts: Prompts, split: bool, progress: Progress) -> None:
    """Fill a folder with both sides of a part; one in twenty queries is held out where that is asked for."""
    bad: Bad = []
    found = groups(part.table, bad) if kind == "columns" else titles(part.table, bad)
    schema = pa.schema({"text": pa.string()})
    files = [pa.OSFile(str(folder / f"{name}.arrow"), "wb") for name in NAMES]
    writers = [pa.ipc.new_stream(file, schema) for file in files]
    sides = [_Side(writer) for writer in writers]
    try:
        for count, group in enumerate(found):
            held_out = split and is_held_out(group.query.encode("utf-8", "surrogatepass"))
            sides[held_out].add(group, prompts)
            if count % BATCH == 0:
                progress("reading pairs", min(count, len(part)), len(part))
        for name, side, writer in zip(NAMES, sides, writers, strict=True):
            side.save(folder, name)
            writer.close()
    finally:
        for file in files:
            file.close()
    (folder / "store.json").write_text(json.dumps({"bad": bad}))
    progress("reading pairs", len(part), len(part))


def _named(folder: Path, part: Part, kind: Kind) -> None:
    """Say what was left out; see `lacking`."""
    bad = json.loads((folder / "store.json").read_text())["bad"]
    said = lacking(bad, len(part), refusing=kind == "columns")
    if said:
        log.warning("%s; all are named in %s", said, folder / "store.json")


def distinct_texts(
    part: Part, kind: Kind, prompts: Prompts, split: bool, root: Path, progress: Progress
) -> tuple[Path, list[Part]]:
    """The pairs of a part: the folder with their rows, and the distinct texts of its two sides, the second held out.

    Raises:
        UserError: there are hardly any, or the cache cannot be written.
    """
    key: dict[str, object] = {
        "identity": part.identity, "kind": kind, "prompts": [prompts.query, prompts.document], "split": split,
    }  # fmt: skip
    folder = stored(root, "pairs", key, lambda folder: _write(folder, part, kind, prompts, split, progress))
    _named(folder, part, kind)
    sides = [Dataset.from_file(str(folder / f"{name}.arrow")) for name in NAMES]
    return folder, [
        Part(side, fingerprint([folder.name, name]), part.folder) for name, side in zip(NAMES, sides, strict=True)
    ]

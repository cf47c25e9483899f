"""Documents, queries and judgements of which document answers which query, in the files that BEIR has them in."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.errors import UserError
from selfsup.eval.json_lines import json_records, text_lines

log = logging.getLogger("selfsup")
FILES = "corpus.jsonl (_id, title, text), queries.jsonl (_id, text), and qrels.tsv or qrels/test.tsv"
FIELDS = ("query-id", "corpus-id", "score")
NAMED = 5  # ids that a message names


@dataclass(frozen=True)
class Collection:
    """Documents with the queries that were judged.

    Attributes:
        name: of the folder.
        split: which judgements these are, and of how many queries.
        documents: N texts, each title and text.
        queries: Q texts, each with a relevant document or more.
        judged: (J, 2) int64, rows of queries and of documents, sorted, each pair once.
        scores: (J,) float64 above 0.
    """

    name: str
    split: str
    documents: list[str]
    queries: list[str]
    judged: Tensor
    scores: Tensor

    def gains(self) -> Tensor:
        """(Q, G) scores of all relevant documents of each query, 0 where it has fewer than others."""
        query = self.judged[:, 0]
        many = torch.bincount(query, minlength=len(self.queries))
        first = many.cumsum(0) - many
        found = torch.zeros(len(self.queries), int(many.max()), dtype=torch.float64)
        found[query, torch.arange(len(query)) - first[query]] = self.scores
        return found

    def relevance(self, ranked: Tensor) -> Tensor:
        """(Q, k) scores of ranked documents, 0 for those that are not relevant.

        Args:
            ranked: (Q, k) rows of documents, -1 where there is none.
        """
        count = len(self.documents)
        known = self.judged[:, 0] * count + self.judged[:, 1]  # (J,) sorted
        asked = torch.arange(len(self.queries))[:, None] * count + ranked
        place = torch.searchsorted(known, asked).clamp(max=len(known) - 1)
        return self.scores[place].where((known[place] == asked) & (ranked >= 0), 0.0)


def _some(names: Iterable[str]) -> str:
    """The first of some names, for a message."""
    found = list(islice(names, NAMED + 1))
    return ", ".join(found[:NAMED]) + (", ..." if len(found) > NAMED else "")


def _text(record: dict[str, Any], field: str, where: str) -> str:
    """A field that has to be a text; nothing stands for an empty one."""
    value = record[field]
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {field!r} has to be a text, not {value!r}")
    return value or ""


def _texts(file: Path, fields: tuple[str, ...]) -> dict[str, str]:
    """The texts of a file by id, of several fields one behind the other.

    Raises:
        UserError: a line is no record with an id and a text, or an id stands twice.
    """
    found: dict[str, str] = {}
    for where, record in json_records(file, "_id and text"):
        for field in ("_id", "text"):
            if field not in record:
                raise UserError(f"{where} has no field {field!r}, only: {', '.join(record)}; needed are _id and text")
        if not isinstance(record["_id"], str | int):
            raise UserError(f"{where}: '_id' has to be a text or a number, not {record['_id']!r}")
        name = str(record["_id"])
        if name in found:
            raise UserError(f"{where}: the _id {name!r} stands for another line already; each has to be different")
        found[name] = " ".join(part for field in fields if field in record and (part := _text(record, field, where)))
    empty = [name for name, text in found.items() if not text.strip()]
    if len(empty) == len(found):
        raise UserError(f"{file}: all {len(found)} texts are empty")
    if empty:
        log.warning("%s: %d of %d texts are empty, kept: %s", file, len(empty), len(found), _some(empty))
    return found


def _score(text: str) -> float | None:
    """A score above or below 0; None for what is no number."""
    try:
        score = float(text)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


def _judgements(file: Path) -> list[tuple[str, str, float]]:
    """Lines of query, document and score, with or without a line of headings.

    Raises:
        UserError: a line is none, or there is none.
    """
    found = []
    for number, line in enumerate(text_lines(file), 1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        score = _score(cells[2]) if len(cells) == 3 else None
        if score is None and not (number == 1 and len(cells) == 3):
            needed = f"needed are {', '.join(FIELDS)} between tabs, the score a number"
            raise UserError(f"{file}, line {number}: {line[:80]!r} is no judgement; {needed}")
        if score is not None:
            found.append((cells[0].strip(), cells[1].strip(), score))
    if not found:
        raise UserError(f"{file} has no judgements; needed are lines of {', '.join(FIELDS)} between tabs")
    return found


def _qrels(place: Path) -> tuple[Path, str]:
    """The file of judgements, and which they are: `qrels.tsv`, else the test, dev or train ones in `qrels`."""
    names = {"qrels.tsv": "", "qrels/test.tsv": "test, ", "qrels/dev.tsv": "dev, ", "qrels/train.tsv": "train, "}
    for name, part in names.items():
        if (place / name).is_file():
            return place / name, part
    raise UserError(f"{place} has no qrels.tsv and no qrels/test.tsv; needed are {FILES}")


def open_collection(place: Path) -> Collection:
    """Read a collection; scores of 0 and below mean not relevant, and only queries with a relevant document are kept.

    Raises:
        UserError: a file is missing, a line is wrong, or no judgement is of a known query and document.
    """
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; needed is one with {FILES}")
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (place / name).is_file():
            raise UserError(f"{place} has no {name}; needed are {FILES}")
    file, part = _qrels(place)
    judgements = _judgements(file)
    documents, queries = _texts(place / "corpus.jsonl", ("title", "text")), _texts(place / "queries.jsonl", ("text",))
    known = [one for one in judgements if one[0] in queries and one[1] in documents]
    strange = [one for one in judgements if one[0] not in queries or one[1] not in documents]
    if strange:
        lost = {
            "queries": dict.fromkeys(query for query, _, _ in strange if query not in queries),
            "documents": dict.fromkeys(document for _, document, _ in strange if document not in documents),
        }
        named = " and ".join(f"unknown {kind} ({_some(ids)})" for kind, ids in lost.items() if ids)
        if not known:
            raise UserError(f"{file}: all {len(judgements)} judgements are of {named}; ids have to be the _id of both")
        log.warning("%s: %d of %d judgements left out, of %s", file, len(strange), len(judgements), named)
    scores = {(query, document): score for query, document, score in known}
    relevant = {pair: score for pair, score in scores.items() if score > 0}
    return _collected(place, part, documents, queries, relevant)


def _collected(
    place: Path, part: str, documents: dict[str, str], queries: dict[str, str], relevant: dict[tuple[str, str], float]
) -> Collection:
    """The collection of the queries that have a relevant document."""
    if not relevant:
        raise UserError(f"{place}: no judgement has a score above 0, so that nothing is relevant")
    asked = {query for query, _ in relevant}
    kept = [query for query in queries if query in asked]
    rows, columns = ({name: row for row, name in enumerate(names)} for names in (kept, documents))
    pairs = np.array([(rows[query], columns[document]) for query, document in relevant], np.int64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    scores = np.array(list(relevant.values()))[order]
    return Collection(
        str(place), f"{part}{len(kept)} queries", list(documents.values()), [queries[name] for name in kept],
        torch.from_numpy(pairs[order]), torch.from_numpy(scores),
    )  # fmt: skip

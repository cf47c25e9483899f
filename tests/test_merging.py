"""Segments of an index: few of them, whatever comes and goes, and nothing lost where they are merged."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from selfsup.search import segment
from selfsup.search.change import Change
from selfsup.search.faiss_index import Quality
from selfsup.search.index import Index
from selfsup.search.merging import Run, runs_of
from selfsup.search.query import Hit, search
from selfsup.search.segment import Segment, TableWriter, schema_of
from selfsup.search.shelf import Named
from text_pairs import WORDS, random_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return random_encoder(tmp_path_factory.mktemp("encoder"))


def notes(first: int, last: int, **more: list) -> Dataset:
    chance = np.random.default_rng([first, last])
    texts = [" ".join(chance.choice(WORDS, 6)) for _ in range(first, last)]
    return Dataset.from_dict({"id": [f"note {n}" for n in range(first, last)], "text": texts, **more})


def answers(index: Index) -> list[tuple[str, str | None, float]]:
    found: list[Hit] = [
        hit for asked in WORDS[:4] for method in ("dense", "words") for hit in search(index, asked, 5, method)
    ]
    return [(hit.id, hit.text, round(hit.score, 4)) for hit in found]


def few(index: Index) -> bool:
    """Whether each segment has more than twice the rows of the next one, and at least half of its rows count."""
    counts = [one.count for one in index.segments]
    return all(a > 2 * b for a, b in pairwise(counts)) and all(
        2 * one.count >= len(one.there) for one in index.segments
    )


def test_many_additions_leave_few_segments(encoder: Path, tmp_path: Path) -> None:
    index, _ = Index.build(encoder, notes(0, 1), tmp_path / "index", quiet=True)
    for number in range(1, 20):
        index.add(notes(number, number + 1), quiet=True)
        assert few(index) and len(index.segments) <= math.log2(number + 1) + 1 and len(index) == number + 1
    parts = [notes(number, number + 1) for number in range(20)]
    rows = Dataset.from_list([row for one in parts for row in one])
    anew, _ = Index.build(encoder, rows, tmp_path / "anew", quiet=True)
    assert answers(index) == answers(anew) == answers(Index.load(tmp_path / "index"))
    left = {entry.name for entry in (tmp_path / "index").iterdir()}
    assert left == {one.name for one in index.contents.segments} | {"index.json", "lock"}


def test_a_segment_that_is_mostly_gone_is_written_anew(encoder: Path, tmp_path: Path) -> None:
    index, _ = Index.build(encoder, notes(0, 40), tmp_path / "index", quiet=True)
    index.add(notes(40, 50), quiet=True)
    sizes = [len(one.there) for one in index.segments]
    assert sizes == [40, 10]
    index.remove([f"note {n}" for n in range(10)])
    assert [len(one.there) for one in index.segments] == [40, 10] and few(index)
    index.remove([f"note {n}" for n in range(10, 15)])
    assert [len(one.there) for one in index.segments] == [40, 10]
    index.remove([f"note {n}" for n in range(15, 24)])
    assert [len(one.there) for one in index.segments] == [26]  # written anew, and no more than twice the next one
    rows = [*notes(0, 40).select(range(24, 40)), *notes(40, 50)]
    anew, _ = Index.build(encoder, Dataset.from_list(rows), tmp_path / "anew", quiet=True)
    assert answers(index) == answers(anew)
    index.remove([f"note {n}" for n in range(24, 50)])
    assert not index.segments and len(index) == 0
    index.add(notes(0, 2), quiet=True)
    assert len(index) == 2


def test_further_columns_come_along_and_types_are_kept_apart(encoder: Path, tmp_path: Path) -> None:
    index, _ = Index.build(encoder, notes(0, 2, year=[1900, 1901]), tmp_path / "index", quiet=True)
    index.add(notes(2, 4, shelf=["a", None], year=[None, None]), quiet=True)
    assert len(index.segments) == 1
    about = {row.id: row.about for one in index.segments for row in one.rows(range(4))}
    assert about == {"note 0": {"year": 1900}, "note 1": {"year": 1901}, "note 2": {"shelf": "a"}, "note 3": {}}
    index.add(notes(4, 8, year=["old", "new", "old", "new"]), quiet=True)
    assert [len(one.there) for one in index.segments] == [4, 4]
    assert {hit.about["year"] for hit in search(index, WORDS[0], 9, "dense") if "year" in hit.about} == {
        1900, 1901, "old", "new"
    }  # fmt: skip
    index.add(notes(8, 9, year=["old"]), quiet=True)
    assert [len(one.there) for one in index.segments] == [4, 4, 1]
    index.add(notes(9, 10, year=["old"]), quiet=True)
    assert [len(one.there) for one in index.segments] == [4, 6]


def test_rows_are_found_in_their_groups(tmp_path: Path, monkeypatch) -> None:
    """Whatever sizes the tables have that are written."""
    monkeypatch.setattr(segment, "GROUP", 8)
    schema, count = schema_of({"year": pa.int64()}), 0
    with TableWriter(tmp_path, schema) as table:
        for size in (3, 20, 0, 1, 9):
            ids = [str(number) for number in range(count, count + size)]
            table.write_table(pa.table({"id": ids, "about.year": pa.array(range(count, count + size), pa.int32())}))
            count += size
    whole = Segment(tmp_path, 1, np.arange(count) % 3 > 0, spoken=False)
    assert [(row.id, row.about["year"]) for row in whole.rows([32, 0, 8, 15])] == [
        ("32", 32), ("0", 0), ("8", 8), ("15", 15)
    ]  # fmt: skip
    assert [one["id"].to_pylist() for one in whole.tables()][1] == ["8", "10", "11", "13", "14"]


def test_runs_by_hand() -> None:
    def runs(*counts: int) -> list[int]:
        schema = schema_of({})
        parts = [Segment(Path(), 1, np.ones(count, bool), spoken=False) for count in counts]
        alone = [Run((Named("", count),), (one,), schema) for count, one in zip(counts, parts, strict=True)]
        return [run.count for run in runs_of(alone)]

    assert runs(100, 10, 4) == [100, 10, 4]
    assert runs(100, 10, 5) == [100, 15]
    assert runs(100, 10, 4, 2) == [100, 16]  # 4 with 2, and then 10 with 6
    assert runs(30, 10, 5) == [45]
    assert runs(3, 100, 1) == [103, 1]  # what shrank joins what follows


def test_a_change_is_told_in_a_line() -> None:
    bad = (("a", "empty"), ("b", "empty"))
    whole = Change(added=1400, renewed=5, kept=3, passages=5120, bad=bad, quality=Quality(0.9688, 64))
    assert str(whole) == (
        "1,400 documents added, 5 renewed, 3 as they were, 2 not read; 5,120 passages; recall@10 0.97 at efSearch 64"
    )
    assert str(Change(removed=1)) == "1 document removed" and str(Change()) == "nothing changed"
    assert str(Change(kept=2)) == "2 documents as they were"

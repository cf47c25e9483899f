"""The tables of docs/results.md: means and deviations over seeds, and nothing is trained twice."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "tables.py"))


def line(who: str, mean: float, metric: str = "accuracy") -> dict:
    return {"task": "knn", "labels": 1.0, "metric": metric, "representation": who, "mean": mean, "chance": 0.1}


def test_table_has_mean_and_deviation_of_the_seeds() -> None:
    runs = [[line("run", value), line("raw", 0.4)] for value in (0.5, 0.6, 0.7)]
    head, _, row = TABLES["table"]({"run": runs}).splitlines()
    assert head == "| task | labels | metric | run | raw | chance |"
    assert row == "| knn | 100% | accuracy % | 60.00 ± 10.00 | 40.00 | 10.00 |"


def test_kinds_stand_side_by_side() -> None:
    rows = [("one", 0.5), ("two", 0.6)]
    runs = {kind: [[line("run", value), line("raw", 0.4), line("untrained", value / 2)]] for kind, value in rows}
    runs["two"][0].append(line("raw", 3.0, "nats"))
    head, _, row, more = TABLES["table"](runs).splitlines()
    assert head == "| task | labels | metric | one | two | raw | untrained | untrained two | chance |"
    assert row == "| knn | 100% | accuracy % | 50.00 | 60.00 | 40.00 | 25.00 | 30.00 | 10.00 |"
    assert more == "| knn | 100% | nats |  |  | 3.00 |  |  |  |"


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []

    def note(*words: str) -> None:
        calls.append(words)
        assert words[0] != "train" or (tmp_path / "glyphs-0.commit").exists()
        if words[0] == "eval":
            Path(words[1]).mkdir(exist_ok=True)
            found = [line("run", 0.5), {"task": "verdict"}]
            (Path(words[1]) / "evals.jsonl").write_text("\n".join(map(json.dumps, found)))
            cost = {"seconds": 60, "samples": 120, "peak_memory": {"process_mb": 5}}
            (Path(words[1]) / "run.json").write_text(json.dumps(cost))

    monkeypatch.setitem(TABLES["results"].__globals__, "call", note)
    (tmp_path / "glyphs-1").mkdir()
    (tmp_path / "glyphs-1" / "run.json").write_text("{}")  # killed while it trained
    assert len(TABLES["results"]("glyphs", "", tmp_path, [0, 1], None)["run"]) == 2
    assert [words[0] for words in calls] == ["train", "eval", "resume", "eval"]
    keep = tmp_path / "kept.jsonl"
    found = TABLES["results"]("glyphs", "", tmp_path, [0, 1], keep)
    assert len(calls) == 4
    elsewhere = TABLES["results"]("glyphs", "", tmp_path / "elsewhere", [0, 1], keep)
    assert [json.loads(run)["commit"] != "unknown" for run in keep.read_text().splitlines()] == [True, False]
    assert len(calls) == 4 and TABLES["table"](elsewhere) == TABLES["table"](found)

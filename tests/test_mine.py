"""`selfsup mine`: what is written, what is never a negative, going on after a kill, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import selfsup
import selfsup.mine as mining
from selfsup import training as verbs
from selfsup.cli import run as command
from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.mine import mine
from selfsup.ops.mining import Rule
from selfsup.run import Run
from selfsup.training import train
from selfsup.vectors import Blocks
from text_pairs import made_up

ROWS = made_up(80)
ROWS[1]["query"], ROWS[2]["positive"] = ROWS[0]["query"], ROWS[3]["positive"]
SETTINGS = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "batch": 8, "steps": 3, "context": 64}


@pytest.fixture(scope="module")
def place(cache, tmp_path_factory) -> Path:
    """A run, and pairs and a corpus as files."""
    folder = tmp_path_factory.mktemp("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "report", lambda *_: None)
        train(selfsup.recipe("contrastive_text", **SETTINGS), folder / "run", data=ROWS, quiet=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": row["query"]}) + "\n" for row in ROWS[40:]))
    return folder


def written(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def by_hand(place: Path, documents: list[str], ratio: float) -> list[list[str]]:
    """The negatives of each row, one cosine at a time."""
    encoder = load_encoder(Run(place / "run").folder)
    vector = {text: encoder.encode([text])[0] for text in {*documents, *(t for row in ROWS for t in row.values())}}
    found = []
    for row in ROWS:
        own = {other["positive"] for other in ROWS if other["query"] == row["query"]} | {row["query"]}
        limit = ratio * float(F.cosine_similarity(vector[row["query"]], vector[row["positive"]], dim=0))
        near = {d: float(F.cosine_similarity(vector[row["query"]], vector[d], dim=0)) for d in documents}
        good = [d for d in sorted(near, key=lambda d: -near[d]) if d not in own and near[d] < limit]
        found.append(good[:3])
    return found


def test_negatives_are_the_nearest_that_do_not_belong(place: Path, tmp_path: Path) -> None:
    found = mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", negatives=3, quiet=True)
    rows = written(tmp_path / "out.jsonl")
    documents = list(dict.fromkeys(row["positive"] for row in ROWS))
    assert [row["negative"] for row in rows] == by_hand(place, documents, 0.95)
    assert [(row["query"], row["positive"]) for row in rows] == [(row["query"], row["positive"]) for row in ROWS]
    assert found.rows == 80 and found.texts == len(documents) == 79
    assert found.negatives == sum(len(row["negative"]) for row in rows) / 80
    assert found.without == sum(not row["negative"] for row in rows) / 80
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out.jsonl"]


def test_a_corpus_is_searched_and_the_verb_says_what_was_left_out(place: Path, tmp_path: Path, capsys) -> None:
    words = ["mine", str(place / "run"), "--data", str(place / "pairs.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert command([*words, "--corpus", str(place / "corpus.jsonl"), "--rule", "none", "--negatives", "2"]) == 0
    said = capsys.readouterr().out
    assert "80 pairs, 39 texts: 2.00 negatives a pair" in said and "0.0% of the near texts left out" in said
    rows, corpus = written(tmp_path / "out.jsonl"), {row["query"] for row in ROWS[40:]}
    assert all(set(row["negative"]) <= corpus - {row["query"]} and len(row["negative"]) == 2 for row in rows)


def test_mined_pairs_train(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "report", lambda *_: None)
    mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", negatives=2, quiet=True)
    recipe = selfsup.recipe("contrastive_text", data=str(tmp_path / "out.jsonl"), log_every=1, **SETTINGS)
    run = train(recipe, tmp_path / "run", quiet=True)
    assert all(-1 <= line["negative_cosine"] <= 1 for line in run.lines("metrics.jsonl"))


class Killed(BaseException):
    """In place of a signal."""


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_killed_mining_goes_on(place: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while queries, documents or negatives are written, in blocks of 40."""
    monkeypatch.setattr(mining, "BLOCK", 40)
    mine(place / "run", place / "pairs.jsonl", tmp_path / "whole.jsonl", quiet=True)
    real, calls = Blocks.write, []

    def killed(blocks: Blocks, *given) -> None:
        if len(calls) == number:
            raise Killed
        calls.append(given)
        real(blocks, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "write", killed)
        with pytest.raises(Killed):
            mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", quiet=True)
    more = []
    monkeypatch.setattr(Blocks, "write", lambda blocks, *given: (more.append(given), real(blocks, *given)))
    mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", quiet=True)
    assert len(calls) + len(more) == 6 and written(tmp_path / "out.jsonl") == written(tmp_path / "whole.jsonl")


def test_unfinished_work_on_other_texts_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(mining, "_written", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", quiet=True)
    with pytest.raises(UserError, match=r"out\.jsonl\.part.* their data is another; to start anew type rm -r"):
        mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", corpus=place / "corpus.jsonl", quiet=True)
    with pytest.raises(UserError, match="their settings is another"):
        mine(place / "run", place / "pairs.jsonl", tmp_path / "out.jsonl", rule=Rule("none"), quiet=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"out": "out.csv"}, "ends in .jsonl"),
        ({"rule": Rule(first=5, last=5)}, "the second has to be larger"),
        ({"columns": {"positive": "answer"}}, "no column 'answer'"),
        ({"corpus": ROWS}, "no column 'text'"),
        ({"data": [{"query": "a", "positive": "b"}]}, "1 pairs; two or more"),
        ({"data": [{"query": "a", "positive": None}] * 5 + ROWS[:5]}, "5 of 10 rows make no pair"),
    ],
)
def test_mistakes_are_said_in_a_line(place: Path, tmp_path: Path, settings: dict, said: str) -> None:
    given = {"data": place / "pairs.jsonl", "quiet": True, **settings, "out": tmp_path / settings.get("out", "o.jsonl")}
    with pytest.raises(UserError) as caught:
        mine(place / "run", **given)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_memory_holds_a_block_of_scores_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is larger than the block that was asked for."""
    shapes = []
    real = torch.Tensor.__matmul__

    def noted(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        found = real(first, second)
        shapes.append(tuple(found.shape))
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", noted)
    z = F.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    known = torch.arange(300)[:, None]
    selfsup.ops.mining.hard_negatives(z, z, torch.ones(300), known, torch.arange(300), 2, Rule("none"), block=64)
    assert max(max(shape) for shape in shapes) == 64

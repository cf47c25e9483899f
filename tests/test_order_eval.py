"""Order of passages: a ranker that knows the truth, one that knows nothing, and bags of words where they tell it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import selfsup
from selfsup.data.draw import Draw
from selfsup.data.segments import SegmentReader
from selfsup.eval import order
from selfsup.eval.order import Bags, Questions, passages, ranker_of, strangers, wins
from selfsup.objective import load_objective
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.training import train

SHAPE = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "batch": 8, "steps": 4, "context": 64}


def document(number: int, sentences: int) -> str:
    """Sentences that name their document, their place in it, and how far the story has come; a segment each."""
    stages = ("dawn", "noon", "dusk", "dark")  # all that a story that was never seen shares with others
    return " ".join(
        f"In d{number:03} {stages[k * 4 // sentences]} s{100 * number + k:05} so." for k in range(sentences)
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stories; the last ones are too short to choose from."""
    folder = tmp_path_factory.mktemp("stories")
    for part, numbers in (("train", range(100)), ("valid", range(100, 130))):
        rows = [{"text": document(number, 12 if number % 10 else 3)} for number in numbers]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = selfsup.recipe("sentence_order", data=texts, **SHAPE)
    return train(recipe, tmp_path_factory.mktemp("order") / "run", quiet=True)


@pytest.fixture(scope="module")
def readers(run: Run) -> tuple[SegmentReader, SegmentReader]:
    prepared = prepare(run.data, None, False, Progress(False))
    module = load_objective("sentence_order")
    return tuple(module.reader(run.recipe.config, store) for store in (prepared.train, prepared.held_out))


def place(text: str) -> tuple[int, int]:
    """Document and sentence that a passage is."""
    ((number, sentence),) = re.findall(r"d(\d+) \w+ s(\d+)", text)
    return int(number), int(sentence)


def truth(first: Sequence[str], second: Sequence[str]) -> torch.Tensor:
    """The nearer the second passage behind the first, the higher; elsewhere it is farther than anything."""
    places = [(*place(one), *place(other)) for one, other in zip(first, second, strict=True)]
    return torch.tensor([float(one - two) if same == of and two > one else -1e3 for same, one, of, two in places])


def test_wins_and_ties() -> None:
    scores = torch.tensor([[2.0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 2, 3], [4, 4, 4, 4], [torch.nan, 1, 2, 3]])
    assert wins(scores).tolist() == [1, 0.5, 0, 0.25, 0]
    assert wins(scores[:, :2]).tolist() == [1, 0.5, 0, 0.5, 0]


def test_passages_are_those_that_are_asked_for(readers: tuple[SegmentReader, SegmentReader]) -> None:
    questions = Questions.of(readers[1])
    assert len(questions.first) == len(questions.second) == len(questions.foreign) == len(readers[1]) == 27 * 11 + 3 * 2
    for first, second, foreign in zip(questions.first, questions.second, questions.foreign, strict=True):
        number, sentence = place(first)
        assert place(second) == (number, sentence + 1) and place(foreign) not in (place(first), place(second))
    assert Questions.of(readers[1]) == questions


def test_strangers_are_of_the_same_document_and_no_neighbors(readers: tuple[SegmentReader, SegmentReader]) -> None:
    reader = readers[1]
    rows, others = strangers(reader)
    assert len(rows) == 27 * 11  # none of the short ones
    assert (reader.document[others] == reader.document[rows][:, None]).all()
    gap = others - rows[:, None]
    assert not np.isin(gap, (-2, -1, 0, 1)).any() and set(np.unique(gap)) >= {-9, -3, 2, 9}
    assert all(len(set(row)) == 3 for row in others.tolist())


def test_who_knows_the_truth_is_always_right(readers: tuple[SegmentReader, SegmentReader]) -> None:
    answers = Questions.of(readers[1]).answers(truth)
    assert {name: float(right.mean()) for name, right in answers.items()} == {"order": 1, "next": 1, "continue": 1}
    backward = Questions.of(readers[1]).answers(lambda first, second: truth(second, first))
    assert float(backward["order"].mean()) == 0
    nothing = Questions.of(readers[1]).answers(lambda first, second: torch.zeros(len(first)))
    assert {name: float(right.mean()) for name, right in nothing.items()} == {
        "order": 0.5,
        "next": 0.5,
        "continue": 0.25,
    }


def test_bags_of_words_tell_what_words_give_away(readers: tuple[SegmentReader, SegmentReader]) -> None:
    """How far a story has come, and which story it is; both on stories that were never seen."""
    questions, bags = Questions.of(readers[1]), Bags.of(readers[0], Questions.of(readers[1]))
    assert len(passages(readers[0], np.arange(5))) == 5
    before = questions.answers(bags.before)["order"]
    turns = [one.split()[2] != other.split()[2] for one, other in zip(questions.first, questions.second, strict=True)]
    assert float(before[torch.tensor(turns)].mean()) > 0.95
    assert abs(float(before[~torch.tensor(turns)].mean()) - 0.5) < 0.1
    overlap = questions.answers(bags.overlap)
    assert float(overlap["next"].mean()) > 0.8 and set(overlap["order"].tolist()) == {0.5}
    assert float(overlap["continue"].mean()) > 0.5  # the stage
    both_ways = Bags(questions.second + questions.first, questions.first + questions.second, [])
    assert abs(both_ways.fit.coef_).max() < 1e-3


def test_a_run_beside_its_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = selfsup.evaluate(run.folder, quiet=True)
    found = {(row["representation"], row["metric"]): row for row in rows if row["task"] == "order"}
    asked = {"order accuracy": 0.5, "next accuracy": 0.5, "continue accuracy": 0.25}
    assert found.keys() == {(who, metric) for who in ("run", "untrained", "raw") for metric in asked}
    assert all(row["chance"] == asked[metric] for (_, metric), row in found.items())
    assert found["raw", "next accuracy"]["mean"] > 0.8
    assert "which of two neighboring passages comes first" in rows[-1]["text"]
    assert rows[-1]["text"].startswith("not worth it: ")  # four steps

    of = order.ranker_of

    class Knowing:
        def __init__(self, scores: Callable) -> None:
            self.scores = scores

    judged = iter([Knowing(truth)])
    monkeypatch.setattr(order, "ranker_of", lambda objective: next(judged, None) or of(objective))
    rows = selfsup.evaluate(run.folder, quiet=True)
    assert [row["mean"] for row in rows if row["representation"] == "run" and row["task"] != "language"] == [1, 1, 1, 1]
    assert rows[-1]["text"].startswith("worth it: +")


def test_hidden_words_of_pairs_are_scored_too(run: Run, readers: tuple[SegmentReader, SegmentReader]) -> None:
    rows = selfsup.evaluate(run.folder, quiet=True)
    found = {(row["representation"], row["metric"]): row["mean"] for row in rows if row["task"] == "language"}
    assert {who for who, _ in found} == {"run", "untrained", "unigram", "5-gram"} and len(found) == 16
    assert "bits per byte saved on held-out text" in rows[-1]["text"]
    objective, nats, count = run.objective().eval(), 0.0, 0
    for row in range(len(readers[1])):
        draw = Draw(0, -1, torch.tensor([row]))
        views = {name: value[0, 0] for name, value in objective.views(readers[1].gather(draw), draw).items()}
        with torch.no_grad():
            logits = objective.network(views["input"][None, : int(views["length"])]).logits[0]
        asked = views["counted"].nonzero()[:, 0]
        chances = logits[asked].double().log_softmax(1)
        nats, count = nats - float(chances[torch.arange(len(asked)), views["target"][asked]].sum()), count + len(asked)
    assert found["run", "nats per masked token"] == pytest.approx(nats / count, rel=1e-5)


def test_a_run_goes_on_with_the_head_of_another(run: Run, texts: Path, tmp_path: Path) -> None:
    given = {name: value for name, value in SHAPE.items() if name in ("batch", "steps", "context")}
    recipe = selfsup.recipe("sentence_order", data=texts, init=str(run.folder), **given)
    later = train(recipe, tmp_path / "run", quiet=True)
    pairs = ["In d001 dawn s00100 so."] * 2, ["In d001 dawn s00101 so.", "In d009 dusk s00900 so."]
    scores = [ranker_of(objective).scores(*pairs) for objective in (run.objective(), later.untrained())]
    assert torch.allclose(*scores, atol=1e-6)
    assert not torch.allclose(scores[0], ranker_of(later.objective()).scores(*pairs), atol=1e-4)


def test_a_run_that_learned_foreign_passages_is_judged_by_these(texts: Path, tmp_path: Path) -> None:
    train(selfsup.recipe("sentence_order", data=texts, negatives="random", **SHAPE), tmp_path / "run", quiet=True)
    other = tmp_path / "other.jsonl"
    rows = [json.dumps({"text": document(number, 12)}) for number in range(200, 204)]
    other.write_text("\n".join(rows))
    rows = selfsup.evaluate(tmp_path / "run", other, quiet=True)
    assert "the next passage from a foreign one" in rows[-1]["text"] and rows[0]["data"] == str(other)


def test_short_documents_leave_no_choice(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [json.dumps({"text": document(number, 3)}) for number in range(200, 210)]
    (tmp_path / "short.jsonl").write_text("\n".join(rows))
    with caplog.at_level("INFO", "selfsup"):
        rows = selfsup.evaluate(run.folder, tmp_path / "short.jsonl", quiet=True)
    assert {row["metric"] for row in rows if row["task"] == "order"} == {"order accuracy", "next accuracy"}
    assert "no document is long enough" in caplog.text


def test_too_little_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text(json.dumps({"text": document(1, 3)}))
    with pytest.raises(selfsup.UserError, match="too few"):
        selfsup.evaluate(run.folder, tmp_path / "few.jsonl", quiet=True)


def test_labels_are_scored_where_order_cannot_be_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part, numbers, sentences in (("train", range(60), 4), ("test", range(60, 100), 1)):
        rows = [{"text": document(k, sentences), "label": "odd" if k % 2 else "even"} for k in numbers]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {**SHAPE, "columns": ("text=text", "label=label")}
    folder = train(selfsup.recipe("sentence_order", data=tmp_path, **settings), tmp_path / "run", quiet=True).folder
    with caplog.at_level("WARNING", "selfsup"):
        rows = selfsup.evaluate(folder, labels=("100%",), quiet=True)
    assert {row["task"] for row in rows} == {"knn", "linear", "verdict"}
    assert "is not scored as text" in caplog.text

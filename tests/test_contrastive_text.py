"""Text embeddings by contrast: losses against their formulas, masks, chunks, negatives mined in training."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import selfsup.nn.ragged as ragged
import selfsup.ops.contrastive as contrastive
from contract.case import in_float64, load_case, steps, untimed
from selfsup import recipe as recipe_of
from selfsup import training as verbs
from selfsup.data.draw import Draw
from selfsup.data.pair_reader import ViewReader
from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.mining import Mining
from selfsup.objective import load_objective
from selfsup.ops.contrastive import cosent, info_nce
from selfsup.ops.mining import Rule, hard_negatives
from selfsup.optim import Plan
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.text_reading import Reading
from selfsup.training import resume, train
from text_pairs import made_up, pair_case

pytestmark = pytest.mark.usefixtures("cache", "one_thread")


SMALL = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "batch": 8, "steps": 2, "context": 64}
GOING_ON = {"layers": None, "heads": None, "width": None, "tokenizer": "bpe"}


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


# Formulas


def info_nce_by_hand(queries: Tensor, documents: Tensor, own: list[int], tau: float, belongs: set) -> Tensor:
    """Equation 4 of arXiv 1807.03748 one query at a time, without what belongs to the query."""
    total = queries.new_zeros(())
    for i, query in enumerate(queries):
        sims = [torch.dot(query, d) / (query.norm() * d.norm()) for d in documents]
        kept = [j for j in range(len(documents)) if j == own[i] or (i, j) not in belongs]
        total = total - torch.log(torch.exp(sims[own[i]] / tau) / sum(torch.exp(sims[j] / tau) for j in kept))
    return total / len(queries)


@pytest.mark.parametrize("block", [1 << 24, 20])
@pytest.mark.parametrize("negatives", [0, 1, 4])
def test_info_nce_equals_the_paper(negatives: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", (block, block))
    queries, documents = vectors(6, 5), vectors(6 + 6 * negatives, 5, seed=1)
    ids = torch.arange(len(documents))[:, None]
    known = torch.tensor([[0, 3], [1, -1], [2, -1], [3, 0], [4, -1], [5, 2]])
    loss, correct = info_nce(
        F.normalize(queries, dim=1), F.normalize(documents, dim=1), torch.arange(6), known, ids, torch.tensor(20.0)
    )
    wanted = info_nce_by_hand(queries, documents, list(range(6)), 0.05, {(0, 3), (3, 0), (5, 2)})
    assert torch.allclose(loss.mean(), wanted, rtol=1e-9) and correct.shape == (6,)
    for got, right in zip(
        torch.autograd.grad(loss.mean(), [queries, documents]),
        torch.autograd.grad(wanted, [queries, documents]),
        strict=True,
    ):
        assert torch.allclose(got, right, rtol=1e-7, atol=1e-10)


def cosent_by_hand(cosines: Tensor, scores: list[float], tau: float) -> Tensor:
    """Su 2022, formula (6): all pairs of pairs whose scores differ."""
    total = cosines.new_ones(())
    for i in range(len(scores)):
        for j in range(len(scores)):
            if scores[i] < scores[j]:
                total = total + torch.exp((cosines[i] - cosines[j]) / tau)
    return torch.log(total)


@pytest.mark.parametrize("block", [1 << 24, 16])
@pytest.mark.parametrize("scores", [[0, 1, 2, 2, 5, 3, 1], [1, 1, 1], [0.5, 0.1]])
def test_cosent_equals_its_formula(scores: list[float], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "BLOCK", (block, block))
    cosines = vectors(len(scores))
    loss = cosent(cosines, torch.tensor(scores), torch.tensor(20.0))
    wanted = cosent_by_hand(cosines, scores, 0.05)
    assert torch.allclose(loss, wanted, rtol=1e-9)
    if len(set(scores)) > 1:
        got, right = (torch.autograd.grad(of, cosines)[0] for of in (loss, wanted))
        assert torch.allclose(got, right, rtol=1e-7, atol=1e-10)
    else:
        assert torch.autograd.grad(loss, cosines)[0].isfinite().all()


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.parametrize("negatives", [0, 1, 4])
def test_losses_equal_those_of_sentence_transformers(negatives: int) -> None:
    """On equal embeddings: their losses, told vectors in place of texts."""
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss

    columns = [vectors(8, 6, seed=seed) for seed in range(2 + negatives)]
    theirs = MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(columns, None)  # type: ignore[arg-type]
    z = [F.normalize(column, dim=1) for column in columns]
    candidates = torch.cat(z[1:])
    ids = torch.arange(len(candidates))[:, None]
    ours = info_nce(z[0], candidates, torch.arange(8), ids[:8], ids, torch.tensor(20.0))[0].mean()
    assert torch.allclose(ours, theirs)
    for got, right in zip(torch.autograd.grad(ours, columns), torch.autograd.grad(theirs, columns), strict=True):
        assert torch.allclose(got, right, rtol=1e-6, atol=1e-9)
    scores = torch.arange(8.0) % 3
    cosines = (z[0] * z[1]).sum(1)
    wanted = CoSENTLoss(None).compute_loss_from_embeddings(columns[:2], scores)  # type: ignore[arg-type]
    assert torch.allclose(cosent(cosines, scores, torch.tensor(20.0)), wanted)


def test_hard_negatives_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    angles = torch.tensor([0.0, 0.1, 0.3, 0.5, 1.0, 1.4])
    documents = torch.stack([angles.cos(), angles.sin()], 1)
    own, known, ids = torch.tensor([0.99, 0.96]), torch.tensor([[1, 2], [5, -1]]), torch.arange(6)

    def found(rule: Rule, count: int = 3) -> list[list[int]]:
        return hard_negatives(queries, documents, own, known, ids, count, rule).index.tolist()

    assert found(Rule("none")) == [[0, 3, 4], [4, 3, 2]]
    assert found(Rule("none", first=1)) == [[3, 4, 5], [3, 2, 1]]
    assert found(Rule("none", last=2)) == [[0, 3, -1], [4, 3, -1]]
    assert found(Rule("ratio")) == [[3, 4, 5], [4, 3, 2]]  # cosines below 0.94 and 0.912
    assert found(Rule("margin", 0.2)) == [[4, 5, -1], [3, 2, 1]]  # below 0.79 and 0.76
    assert found(Rule("absolute", 0.5)) == [[5, -1, -1], [3, 2, 1]]
    looked = hard_negatives(queries, documents, own, known, ids, 1, Rule("absolute", 0.5, last=3))
    assert looked.looked_at.tolist() == [3, 3] and looked.left_out.tolist() == [3, 1]
    assert looked.dropped == pytest.approx(4 / 6)
    assert found(Rule("none"), 20)[0] == [0, 3, 4, 5, *[-1] * 16]


# Rows


def test_rows_hold_what_the_table_says() -> None:
    data = [
        {"query": "one", "positive": ["first", "second"], "negative": "bad"},
        {"query": "two", "positive": ["third"], "negative": None},
        {"query": "one", "positive": ["third"], "negative": "two"},
        {"query": "four", "positive": ["one"], "negative": "first"},
    ]
    reader = pair_case(data).reader()
    store = reader.store

    def texts(row: int) -> list[str]:
        batch = reader.gather(Draw(0, 0, torch.tensor([row])))
        pairs = zip(batch["texts"][0], batch["texts_length"][0], strict=True)
        return [store.tokenizer.decode(ids[:size].tolist()) for ids, size in pairs]

    assert [texts(row) for row in range(len(reader))][:5] == [
        ["one", "first", "bad"], ["one", "second", "bad"], ["two", "third", ""], ["one", "third", "two"],
        ["four", "one", "first"],
    ]  # fmt: skip
    batch = reader.gather(Draw(0, 0, torch.arange(5)))
    name = {texts(row)[place]: int(batch["texts_id"][row, place]) for row in range(5) for place in range(3)}
    assert name[""] == -1
    assert set(batch["known"][0].tolist()) == {name["one"], name["first"], name["second"], name["third"]}
    assert set(batch["known"][4].tolist()) == {name["four"], name["one"], -1}


def test_what_belongs_together_is_no_negative() -> None:
    """Duplicates, other positives of the query and the query itself are left out of the sum."""
    data = made_up(12)
    data[1]["positive"] = data[0]["positive"]  # the same document for two queries
    data[2]["query"] = data[3]["query"]  # two documents for one query
    data[4]["positive"] = data[5]["query"]  # a query that is a document
    case = pair_case(data, sides="both")
    objective = in_float64(case.objective())
    batch, draw = case.batch(range(12))
    with torch.no_grad():
        found = objective(batch, draw)
        z = objective.encoder.encode([row["query"] for row in data] + [row["positive"] for row in data])
    belongs = {(0, 1), (1, 0), (2, 3), (3, 2), (5, 4)}
    queries, documents = z[:12].double(), z[12:].double()
    there = info_nce_by_hand(queries, documents, list(range(12)), 0.05, belongs)
    back = info_nce_by_hand(documents, queries, list(range(12)), 0.05, {(j, i) for i, j in belongs})
    assert float(found["loss"]) == pytest.approx(float((there + back) / 2), rel=1e-5)


def test_prompts_are_trained_with_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(verbs, "report", lambda *_: None)
    data = made_up(40)
    data[0]["positive"] = data[1]["query"]
    given = {"query_prompt": "q: ", "document_prompt": "d: ", **SMALL}
    run = train(recipe_of("contrastive_text", **given), tmp_path / "run", data=data, quiet=True)
    prepared = prepare(run.recipe.data, {"train": data, "valid": data[:4]}, False, Progress(False)).train
    reader = load_objective("contrastive_text").reader(run.recipe.config, prepared)
    batch = reader.gather(Draw(0, 0, torch.tensor([0, 1])))
    ids, sizes = batch["texts"].flatten(0, 1), batch["texts_length"].flatten().tolist()
    shown = [prepared.tokenizer.decode(row[:size].tolist()) for row, size in zip(ids, sizes, strict=True)]
    assert [text[:3] for text in shown] == ["q: ", "d: ", "q: ", "d: "]
    assert batch["texts_id"][0, 1] == batch["texts_id"][1, 0]  # the same text behind another prompt
    encoder = load_encoder(run.folder)
    assert encoder.reading == Reading("mean", True, "q: ", "d: ")
    assert torch.allclose(encoder.encode(["sunrise"], "query"), encoder.encode(["q: sunrise"]))
    assert torch.allclose(encoder.encode(["sunrise"]).norm(), torch.tensor(1.0))
    train(recipe_of("contrastive_text", **{**SMALL, **GOING_ON, "init": str(run.folder)}), tmp_path / "b", data, True)
    assert "trained with --query-prompt 'q: ' --document-prompt 'd: '" in caplog.text


def test_titles_and_what_follows_are_pairs(caplog: pytest.LogCaptureFixture) -> None:
    data = [f"Title {number}\nBody of {number}.\nMore." for number in range(30)] + ["one line"]
    recipe = recipe_of("contrastive_text", pairs="title", **SMALL)
    store = prepare(recipe.data, {"train": data, "valid": data[:2]}, False, Progress(False)).train
    texts = [store.tokenizer.decode(store.read(*store.places[number]).tolist()) for number in store.rows[3]]
    assert texts == ["Title 3", "Body of 3.\nMore."] and len(store.rows) == 30
    assert "1 of 31 rows make no pair (row 30: one line only)" in caplog.text


def test_long_texts_are_cut_or_split_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = [*made_up(20), {"query": "short", "positive": "long " * 100}]
    reader = pair_case(data).reader()
    assert int(reader.gather(Draw(0, 0, torch.tensor([20])))["texts_length"].max()) == 62  # between two marks
    assert "6 of 42 texts are longer than 62 tokens" in caplog.text
    plain = prepare(recipe_of("contrastive_text", **SMALL).data, ["long " * 100] * 20, False, Progress(False)).train
    reader = ViewReader(plain, 62, spans=False)
    assert len(reader) > len(plain.texts()[0]) and "texts are read as" in caplog.text


def test_spans_lie_in_their_text_and_change_with_the_epoch() -> None:
    reader = load_case("contrastive_text").reader()
    rows = torch.arange(200)
    places, ids = reader.places(Draw(0, 0, rows))
    start, stop = reader.start[:200, None], reader.stop[:200, None]
    assert (places[:, :, 0] >= start).all() and (places[:, :, 1] <= stop).all()
    sizes = places[:, :, 1] - places[:, :, 0]
    assert (sizes >= np.minimum(8, stop - start)).all() and (sizes <= np.maximum(0.5 * (stop - start) + 1, 8)).all()
    assert (ids == np.arange(200)[:, None]).all()
    assert (places != reader.places(Draw(0, 1, rows))[0]).any(1).any(1).mean() > 0.9


def test_a_score_trains_with_cosent() -> None:
    case = pair_case(made_up(40, graded=True))
    batch, draw = case.batch(range(40))
    objective = in_float64(case.objective())
    with torch.no_grad():
        found = objective(batch, draw)
    rows = made_up(40, graded=True)
    z = objective.encoder.encode([row["query"] for row in rows] + [row["positive"] for row in rows]).double()
    wanted = cosent_by_hand((z[:40] * z[40:]).sum(1), [row["score"] for row in rows], 0.05)
    assert float(found["loss"]) == pytest.approx(float(wanted), rel=1e-5)
    assert "example_loss" not in found


def test_matryoshka_is_the_mean_over_its_dimensions() -> None:
    case = pair_case(made_up(16), dimensions=(8, 16))
    batch, draw = case.batch(range(16))
    objective = in_float64(case.objective())
    with torch.no_grad():
        found = objective(batch, draw)
    rows = made_up(16)
    z = objective.encoder.encode([row["query"] for row in rows] + [row["positive"] for row in rows]).double()
    parts = [info_nce_by_hand(z[:16, :size], z[16:, :size], list(range(16)), 0.05, set()) for size in (8, 16, 32)]
    assert float(found["loss"]) == pytest.approx(float(sum(parts) / 3), rel=1e-5)


def test_a_learned_temperature_learns_and_is_logged() -> None:
    training = pair_case(made_up(64), learn_temperature=True).training()
    found = steps(training, 5)
    assert found[0]["temperature"] == pytest.approx(0.05, rel=1e-3)
    assert found[-1]["temperature"] != found[0]["temperature"]


# Large batches


@pytest.mark.parametrize("negatives", [0, 1, 4])
@pytest.mark.parametrize("graded", [False, True])
def test_chunks_equal_the_direct_batch(negatives: int, graded: bool) -> None:
    data = made_up(24, negatives, graded)
    found = []
    for chunk in (None, 64):
        case = pair_case(data, chunk=chunk)
        objective = in_float64(case.objective())
        batch, draw = case.batch(range(24))
        loss = objective(batch, draw)["loss"]
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in objective.parameters())])
    for direct, chunked in zip(*found, strict=True):
        assert torch.allclose(direct, chunked, rtol=1e-9, atol=1e-12)


def test_chunks_with_dropout_equal_the_same_chunks_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact replay: dropout falls alike when activations are made again."""
    case = pair_case(made_up(24, 1), chunk=64)
    case = replace(case, recipe=replace(case.recipe, backbone=replace(case.recipe.backbone, dropout=0.3)))
    batch, draw = case.batch(range(24))
    found = []
    for kept in (False, True):
        objective = case.objective().train()
        if kept:
            monkeypatch.setattr(ragged, "checkpoint", lambda work, *given, use_reentrant: work(*given))
        torch.manual_seed(1)
        loss = objective(batch, draw)["loss"]
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in objective.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    torch.manual_seed(2)
    assert not torch.equal(case.objective().train()(batch, draw)["loss"], found[0][0])


# Negatives mined in training


class Killed(BaseException):
    """In place of a signal where the moment matters."""


def kill(*_: object) -> None:
    raise Killed


ROWS = made_up(64)


def mined_run(folder: Path, steps: int = 12) -> Run:
    case = pair_case(ROWS, mine_every=4, mined=2, mine_rule="none")
    return train(case.run_recipe(steps, save_every=3), folder, data=ROWS, quiet=True)


def go_on(folder: Path, more: int | None = None) -> Run:
    return resume(folder, more, data=ROWS, quiet=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache) -> Run:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "report", lambda *_: None)
        run = mined_run(tmp_path_factory.mktemp("mined") / "run")
    torch.set_num_threads(before)
    return run


def same(first: Run, second: Run) -> bool:
    logs = all(untimed(first.lines(name)) == untimed(second.lines(name)) for name in ("metrics.jsonl", "evals.jsonl"))
    weights = [run.state()["objective"] for run in (first, second)]
    return logs and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_mined_negatives_come_into_force_at_their_step(straight: Run) -> None:
    lines = straight.lines("metrics.jsonl")
    assert ["negative_cosine" in line for line in lines] == [False] * 4 + [True] * 8
    mined = [line for line in straight.lines("evals.jsonl") if line["task"] == "mining"]
    assert [line["step"] for line in mined] == [4, 8]
    assert all(-1 <= line["cosine"] <= 1 and line["dropped"] == 0 and line["without"] == 0 for line in mined)
    rows = np.load(straight.folder / "companions" / "8.npy")
    count = straight.facts.rows
    assert rows.shape == (count, 2) and (rows != np.arange(len(rows))[:, None]).all()
    assert (rows >= 0).all() and (rows[:, 0] != rows[:, 1]).all()


@pytest.mark.parametrize("moment", ["before", "during", "after", "saved"])
def test_killed_around_a_mining_equals_the_straight_run(
    straight: Run, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the mining of step 8, before its result is written, in the step after it, or once that is saved."""
    monkeypatch.setattr(verbs, "report", lambda *_: None)
    place, name = {"during": (Mining, "_save"), "saved": (Run, "save_model")}.get(moment, (Mining, "_mine"))
    real = vars(place)[name]

    def killed(self, *given):
        at_8 = self.step == 9 if moment == "saved" else (moment == "during" and given[1].step == 8) or given[0] == 8
        if at_8 and moment != "after":
            raise Killed
        found = real(self, *given)
        if at_8:
            self.objective.register_forward_pre_hook(kill)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(Killed):
            mined_run(tmp_path / "run")
    assert same(go_on(tmp_path / "run"), straight)


def test_mining_is_part_of_the_time_of_a_step() -> None:
    """A budget in minutes knows what mining takes; what was tried is undone."""

    def pace(slow: float) -> float:
        case = pair_case(ROWS, mine_every=4, mined=2)
        training = case.training()
        found = training.objective.companions

        def companions(marks: dict) -> tuple[Tensor, dict[str, float]]:
            time.sleep(slow)
            return found(marks)

        training.objective.companions = companions
        before = {name: value.clone() for name, value in training.objective.state_dict().items()}
        plan = Plan(start=0, stop=10**6, warmup=10**6, cooldown=1, schedule="linear")
        seconds = training.time_steps(plan, mined=True)
        assert all(torch.equal(value, before[name]) for name, value in training.objective.state_dict().items())
        assert [companions for _, _, companions in training.mining.stretches(0, 4)] == [None]
        return seconds

    assert pace(2.0) - pace(0) == pytest.approx(2.0 / 4, rel=0.3)


def test_lost_or_changed_companions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "report", lambda *_: None)
    run = mined_run(tmp_path / "run", 6)
    file = run.folder / "companions" / "4.npy"
    rows = np.load(file)
    np.save(file, rows[::-1])
    with pytest.raises(UserError, match=r"4\.npy has changed since the checkpoint"):
        go_on(run.folder, 4)
    file.unlink()
    with pytest.raises(UserError, match=r"4\.npy is missing"):
        go_on(run.folder, 4)


# Bad input


def refused(data: object, tmp_path: Path, **settings) -> str:
    given = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "batch": 4, "steps": 2, "context": 32}
    with pytest.raises(UserError) as caught:
        train(recipe_of("contrastive_text", **{**given, **settings}), tmp_path / "run", data=data, quiet=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    rows, texts = made_up(40), [row["query"] for row in made_up(40)]
    assert "give --dropout 0.1" in refused(texts, tmp_path, views="dropout")
    assert "drop them" in refused(texts, tmp_path, query_prompt="query: ")
    assert "no column 'query'" in refused(texts, tmp_path, pairs="columns")
    assert "have 16 numbers" in refused(rows, tmp_path, dimensions=(8, 64))
    assert "no room" in refused(rows, tmp_path, context=2)
    graded = made_up(40, graded=True)
    assert "drop it" in refused(graded, tmp_path, sides="both") and "drop it" in refused(graded, tmp_path, mine_every=2)
    assert "larger than the data" in refused(rows, tmp_path, batch=400)


def test_rows_that_lack_a_text_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = made_up(60)
    rows[9]["query"], rows[7]["positive"] = " ", None
    case = pair_case(rows)
    assert "2 of 60 rows make no pair (row 7: no positive; row 9: no query)" in caplog.text
    assert len(case.reader()) == 58
    for row in rows[:20]:
        row["positive"] = None
    assert "name other columns with --columns" in refused(rows, tmp_path)
    graded = made_up(60, graded=True)
    graded[5]["score"] = math.nan
    pair_case(graded)
    assert "row 5: no score" in caplog.text

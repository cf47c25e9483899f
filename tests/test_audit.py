"""Audits, and weights of rows: who is asked by whom, what is written of it, and what a weight does to a gradient."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from datasets import Dataset
from torch import Tensor

import selfsup
from contract.case import in_float64, load_case
from selfsup import audit as audits
from selfsup import cli
from selfsup.answers import confusions
from selfsup.audit import audit
from selfsup.data.draw import Draw
from selfsup.data.loader import batches
from selfsup.data.reader import Batch, Companions, Reader
from selfsup.data.samples import load_sample
from selfsup.data.selection import Selection
from selfsup.data.weights import Weighted, load_weights, weights_table
from selfsup.errors import UserError
from selfsup.folds import Scores, contents, cut, others
from selfsup.loop import Training
from selfsup.objective import Objective
from selfsup.ops.weighting import weighted
from selfsup.planning import make_plan
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.recipes import Recipe
from selfsup.runtime import Runtime, Stopped
from selfsup.suitability import Question, Told, in_doubt, judge, weights_of
from selfsup.tables import audit_text


def digits(count: int = 96, twins: int = 8) -> Dataset:
    """Handwritten digits with their labels, some of them twice."""
    part = load_sample("digits")["train"]
    rows = [*range(count), *range(twins)]
    return Dataset.from_dict({name: [part[name][row] for row in rows] for name in ("image", "label")})


def tiny(**settings: Any) -> Recipe:
    """A recipe of rotation that takes a second."""
    chosen = {"pixels": 8, "size": "nano", "batch": 16, "steps": 12, "precision": "float32", **settings}
    return selfsup.recipe("rotation", **chosen)


def quiet_audit(out: Path, recipe: Recipe | None = None, **settings: Any) -> dict[str, Any]:
    """An audit of the digits."""
    return audit(recipe or tiny(), out, draws=2, data=digits(), quiet=True, **settings)


@pytest.fixture(scope="module")
def audited(cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[tuple]]:
    """A folder with an audit and the weights beside it, the report, and (trained on, asked) rows of each fold."""
    folder, seen = tmp_path_factory.mktemp("audits"), []
    trained, scored = audits.trained, audits.scored
    with pytest.MonkeyPatch.context() as patch:

        def note_trained(objective: Objective, reader: Selection, *rest: Any) -> tuple[int, dict[str, float]]:
            seen.append([reader.rows.numpy()])
            return trained(objective, reader, *rest)

        def note_scored(objective: Objective, reader: Reader, rows: np.ndarray, *rest: Any) -> Scores:
            seen[-1].append(rows)
            return scored(objective, reader, rows, *rest)

        patch.setattr(audits, "trained", note_trained)
        patch.setattr(audits, "scored", note_scored)
        record = quiet_audit(folder / "audit", weights=folder / "w.parquet")
    return folder, record, seen


class TestFolds:
    def test_no_row_is_asked_by_what_saw_it_or_its_twin(self, audited: tuple) -> None:
        _, record, seen = audited
        store = prepare(tiny().data, digits(), False, Progress(False)).train
        content = contents(store, record["rows"])
        assert content is not None and len(seen) == 2
        for learned, asked in seen:
            assert set(content[learned]).isdisjoint(content[asked])
        assert sorted(np.concatenate([asked for _, asked in seen])) == list(range(record["rows"]))
        assert len(np.unique(content)) < record["rows"], "the data has no twins"

    def test_text_is_cut_in_stretches_that_do_not_touch(self) -> None:
        fold_of = cut(None, 500, 2)
        edges = np.flatnonzero(np.diff(fold_of))
        assert np.bincount(fold_of).tolist() == [250, 250] and 2 <= len(edges) < 16
        for fold in (0, 1):
            rest, held = others(fold_of, fold, True), np.flatnonzero(fold_of == fold)
            assert np.abs(rest[:, None] - held).min() == 5 and len(rest) >= 250 - 2 * 4 * len(edges)
        assert cut(None, 6, 3).tolist() == [0, 0, 1, 1, 2, 2]
        assert others(cut(None, 6, 3), 0, True).tolist() == [3, 4, 5], "one row, where there is little"
        many = cut(None, 50_000, 2)
        assert np.abs(others(many, 0, True)[:, None] - np.flatnonzero(np.diff(many))).min() == 8

    def test_a_selection_reads_the_rows_of_its_reader(self) -> None:
        class Numbers(Reader):
            def __len__(self) -> int:
                return 10

            def gather(self, draw: Draw, companions: Companions | None = None) -> Batch:
                near = companions.rows[draw.rows] if companions is not None else draw.rows[:, None]
                return {"row": draw.rows, "chance": draw.uniform("x", 2), "near": near}

        rows, draw = torch.tensor([7, 2, 5]), Draw(3, 1, torch.tensor([2, 0]))
        some = Selection(Numbers(), rows.numpy())
        found = some.gather(draw, Companions(0, torch.tensor([[1], [2], [-1]])))
        whole = Numbers().gather(Draw(3, 1, rows[draw.rows]))
        assert len(some) == 3 and found["row"].tolist() == [5, 7] and found["near"].tolist() == [[-1], [2]]
        assert torch.equal(found["chance"], whole["chance"])


class TestReport:
    def test_what_is_written(self, audited: tuple) -> None:
        folder, record, _ = audited
        assert json.loads((folder / "audit" / "audit.json").read_text()) == record
        assert (folder / "audit" / "least.png").stat().st_size > 10_000
        table = parquet.read_table(folder / "audit" / "rows.parquet").to_pydict()
        assert table["row"] == list(range(record["rows"])) and set(table["fold"]) == {0, 1}
        assert all(0 <= share <= 1 and (2 * share) % 1 == 0 for share in table["correct"])  # of two draws
        assert set(table["label"]) <= {str(digit) for digit in range(10)}
        assert np.allclose(table["difficulty"], np.array(table["loss"]) / math.log(4), rtol=1e-5)
        assert np.allclose(table["weight"], weights_of(np.array(table["difficulty"])), atol=1e-6)

    def test_questions_and_labels(self, audited: tuple) -> None:
        _, record, _ = audited
        (question,) = record["questions"]
        assert question["name"] == "accuracy" and question["guessing"] == pytest.approx(0.25)
        assert 0 <= question["half"] < 0.2 and record["loss"] > 0 and record["steps"] == 12
        assert record["trivial"] == pytest.approx(math.log(4), rel=1e-6)
        difficulty = [line["difficulty"] for line in record["labels"]]
        assert difficulty == sorted(difficulty, reverse=True) and sum(line["rows"] for line in record["labels"]) > 90
        assert all(one["asked"] != one["answered"] for line in record["labels"] for one in line["confusions"])
        said = audit_text(record)
        assert record["text"] in said and "taken for" in said and "guessing" in said

    def test_what_was_learned_is_of_the_last_tenth_of_the_steps(self, cache, tmp_path: Path, monkeypatch) -> None:
        told, step = [], Training.step

        def noted(*rest: Any) -> dict[str, float]:
            told.append(step(*rest))
            return told[-1]

        monkeypatch.setattr(Training, "step", noted)
        record = quiet_audit(tmp_path / "audit", tiny(steps=20))
        share = np.bincount(parquet.read_table(tmp_path / "audit" / "rows.parquet")["fold"]) / record["rows"]
        for name, found in (("loss", record["learned"]), ("accuracy", record["questions"][0]["learned"])):
            of_folds = np.array([line[name] for line in told]).reshape(2, 20)[:, -2:].mean(1)
            assert found == pytest.approx(of_folds @ share, rel=1e-6)

    def test_text(self, cache, tmp_path: Path) -> None:
        """Nothing to learn in so few steps from words at random: it says so, of both questions."""
        chance = np.random.default_rng(0)
        text = " ".join(f"{' '.join(chance.choice(['sun', 'sea', 'hill', 'road'], 4))}." for _ in range(400))
        (tmp_path / "book.txt").write_text(text.replace("sun", "Sun"))
        settings = {"tokenizer": "byte", "context": 64, "layers": 1, "heads": 2, "width": 16, "batch": 8, "steps": 2}
        recipe = selfsup.recipe("sentence_order", data=str(tmp_path / "book.txt"), precision="float32", **settings)
        record = audit(recipe, tmp_path / "audit", draws=1, quiet=True)
        assert {one["name"] for one in record["questions"]} == {"order_accuracy", "next_accuracy"}
        assert record["verdict"] == "does not suit" and record["labels"] == []
        said = (tmp_path / "audit" / "least.txt").read_text()
        assert said.startswith("least answerable\n") and "    first: " in said and "hill" in said

    def test_confusions(self) -> None:
        answers = np.zeros((2, 2, 2), int)
        answers[0] = [[1, 3], [0, 4]]
        answers[1] = [[4, 0], [2, 2]]
        found = confusions(answers, ("up", "down"), 2)
        assert found == [
            {"asked": "up", "answered": "down", "share": 3 / 8},
            {"asked": "down", "answered": "up", "share": 2 / 8},
        ]


class TestGoingOn:
    def test_a_killed_audit_keeps_its_folds(self, audited: tuple, tmp_path: Path, monkeypatch) -> None:
        folder, _, _ = audited
        calls, scored, trained = [], audits.scored, audits.trained

        def killed(*rest: Any) -> Scores:
            calls.append("asked")
            if len(calls) == 4:  # in the second fold
                rest[-1].append(15)
            return scored(*rest)

        def noted(*rest: Any) -> tuple[int, dict[str, float]]:
            calls.append("trained")
            return trained(*rest)

        monkeypatch.setattr(audits, "scored", killed)
        monkeypatch.setattr(audits, "trained", noted)
        with pytest.raises(Stopped, match="the same command goes on") as stopped:
            quiet_audit(tmp_path / "audit")
        assert stopped.value.number == 15 and calls == ["trained", "asked"] * 2
        assert [file.name for file in tmp_path.glob("audit/fold-*")] == ["fold-0.npz"]
        quiet_audit(tmp_path / "audit")
        assert calls == ["trained", "asked"] * 3
        rows = [parquet.read_table(place / "audit" / "rows.parquet") for place in (folder, tmp_path)]
        assert rows[0].equals(rows[1]), "bit for bit what was never stopped"

    def test_another_recipe_is_refused(self, audited: tuple) -> None:
        folder, _, _ = audited
        for recipe, what in ((tiny(steps=13), "--steps"), (tiny(flip=0.0), "--flip")):
            with pytest.raises(UserError, match=f"another {what}; give another --out"):
                quiet_audit(folder / "audit", recipe)
        with pytest.raises(UserError, match="another --folds"):
            quiet_audit(folder / "audit", folds=3)
        with pytest.raises(UserError, match="content of the data"):
            audit(tiny(), folder / "audit", draws=2, data=digits(97), quiet=True)

    def test_bad_input(self, tmp_path: Path) -> None:
        for settings, said in (
            ({"folds": 1}, "--folds 1"),
            ({"folds": 500}, "--folds 500: there are"),
        ):
            with pytest.raises(UserError, match=said):
                quiet_audit(tmp_path / "audit", **settings)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine.txt").write_text("mine")
        with pytest.raises(UserError, match="not empty and holds no audit"):
            quiet_audit(tmp_path / "full")
        with pytest.raises(UserError, match="audit what"):
            cli.run(["audit", "--data", "x"])


class TestVerdict:
    @pytest.mark.parametrize(
        ("right", "guess", "kind"),
        [(0.26, 0.25, "does not suit"), (0.3, 0.25, "does not suit"), (0.33, 0.25, "suits in part"),
         (0.56, 0.25, "suits"), (0.54, 0.25, "suits in part"), (0.54, 0.5, "does not suit"), (0.71, 0.5, "suits")],
    )  # fmt: skip
    def test_a_question(self, right: float, guess: float, kind: str) -> None:
        verdict = judge("turned", [Question("accuracy", right, 0.01, guess, 0.9)], 0.41)
        assert verdict.kind == kind and verdict.warning == ""
        assert f"accuracy {100 * right:.1f} ± 1.0 %" in verdict.said and "41 % of the rows are in doubt" in verdict.said
        assert verdict.said.startswith("turned does not suit these data" if kind == "does not suit" else "turned suits")

    def test_the_worst_question_decides(self) -> None:
        found = judge("order", [Question("next", 0.9, 0.0, 0.5, 0.9), Question("swap", 0.52, math.nan, 0.5, 0.9)], 0.0)
        assert found.kind == "does not suit" and "swap 52.0 % on" in found.said and "next" not in found.said

    def test_without_a_question_the_loss_decides(self) -> None:
        kinds = [judge("mae", [Told("loss", loss, 2.0, 0.1)], 0.0).kind for loss in (2.5, 1.9, 1.7, 1.21, 1.1)]
        assert kinds == ["does not suit", "does not suit", "suits in part", "suits in part", "suits"]

    def test_what_is_too_easy(self) -> None:
        assert "shortcut" in judge("jigsaw", [Question("accuracy", 0.995, 0.0, 0.25, 0.9)], 0.0).warning
        assert judge("simclr", [Question("accuracy", 0.995, 0.0, 0.002, 0.9)], 0.0).warning == ""

    def test_what_was_not_learned_is_no_verdict_on_the_data(self) -> None:
        by_heart, unlearned = (judge("x", [Question("order", 0.52, 0.01, 0.5, told)], 0.9) for told in (0.9, 0.53))
        assert by_heart.warning == "" and "order was not learned on the rows trained on either" in unlearned.warning
        assert "loss was not learned" in judge("mae", [Told("loss", 1.95, 2.0, 1.9)], 0.0).warning
        assert judge("x", [Question("order", 0.6, 0.01, 0.5, 0.53)], 0.9).warning == "", "some of it was learned"

    def test_weights(self) -> None:
        difficulty = np.array([0.0, 0.49, 0.5, 0.75, 0.96, 2.0])
        assert weights_of(difficulty).tolist() == pytest.approx([1, 1, 1, 0.5, 0.1, 0.1])
        assert in_doubt(difficulty).tolist() == [False, False, True, True, True, True]


# Weights


WEIGHT = torch.tensor([0.0, 1.0, 0.3, 2.0, 0.5, 0.1, 0.0, 1.7])


def gradient(objective: Objective, loss: Tensor) -> Tensor:
    """Of a loss, all in one vector."""
    objective.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


def exact(name: str) -> tuple[Objective, Batch, Draw]:
    """An objective in float64 and in eval mode, so that no statistics tie its rows together, with eight rows."""
    case = load_case(name)
    return in_float64(case.objective()).eval(), *case.batch(range(8))


class TestWeights:
    def test_rotation(self) -> None:
        objective, batch, draw = exact("rotation")
        found = weighted(objective(batch, draw), WEIGHT)
        views = objective.views(batch, draw)["image"]
        total = torch.zeros((), dtype=torch.float64)
        for row, weight in enumerate(WEIGHT.double()):
            logits = objective.head(objective.backbone(views[row]))
            for turn in range(4):
                total = total - weight * logits[turn].log_softmax(0)[turn]
        wanted = total / (4 * WEIGHT.double().sum())
        assert found["loss"].item() == pytest.approx(wanted.item(), abs=1e-7)
        assert float(found["count"]) == pytest.approx(4 * float(WEIGHT.sum()))
        again = weighted(objective(batch, draw), WEIGHT.double())["loss"]
        difference = gradient(objective, again) - gradient(objective, wanted)
        assert difference.abs().max() < 1e-9

    def test_a_row_of_weight_zero_stays_a_negative(self) -> None:
        objective, batch, draw = exact("simclr")
        found = weighted(objective(batch, draw), WEIGHT.double())["loss"]
        views = objective.views(batch, draw)
        pairs = [objective.projection(objective.backbone(views[name])) for name in ("first", "second")]
        z = torch.nn.functional.normalize(torch.cat(pairs), dim=1)
        similar = z @ z.T / objective.config.temperature
        total = torch.zeros((), dtype=torch.float64)
        for view in range(16):
            rivals = [other for other in range(16) if other != view]  # those of weight 0, too
            told = similar[view, (view + 8) % 16] - similar[view, rivals].logsumexp(0)
            total = total - WEIGHT.double()[view % 8] * told
        wanted = total / (2 * WEIGHT.double().sum())
        assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
        assert (gradient(objective, found) - gradient(objective, wanted)).abs().max() < 1e-9
        few = {name: value[WEIGHT > 0] for name, value in batch.items()}
        alone = objective(few, Draw(draw.seed, draw.epoch, draw.rows[WEIGHT > 0]))
        assert abs(weighted(alone, WEIGHT[WEIGHT > 0].double())["loss"].item() - found.item()) > 1e-3

    def test_what_is_beside_the_rows_stays(self) -> None:
        objective, batch, draw = exact("dino")
        losses = objective(batch, draw)
        beside = losses["loss"] - losses["crop_loss"]
        weight = WEIGHT.double()
        wanted = (weight * losses["example_loss"]).sum() / weight.sum() + beside
        assert weighted(losses, weight)["loss"].item() == pytest.approx(wanted.item(), abs=1e-9)

    def test_all_zero(self) -> None:
        objective, batch, draw = exact("rotation")
        found = weighted(objective(batch, draw), torch.zeros(8))
        assert found["loss"].item() == pytest.approx(0, abs=1e-6) and 0 < found["count"] < 1e-6
        assert gradient(objective, found["loss"] * found["count"]).abs().max() < 1e-12

    def test_micro_batches(self) -> None:
        """Sums of weights differ between them."""
        case, states = load_case("mae"), []
        for micro in (1, 4):
            recipe = replace(case.recipe, optimizer=replace(case.recipe.optimizer, micro=micro))
            reader = Weighted(case.reader(), torch.arange(len(case.reader())) % 3 / 2)
            training = Training(in_float64(case.objective()), reader, recipe, Runtime("float32"))
            plan = make_plan(recipe.optimizer, 0, 2)
            lines = [training.step(number, parts, plan) for number, parts in enumerate(training.read(0, 2))]
            states.append((lines, dict(training.objective.named_parameters())))
        for key in states[0][0][0].keys() - {"rate"}:
            assert [line[key] for line in states[0][0]] == pytest.approx([line[key] for line in states[1][0]], rel=1e-5)
        for name, weight in states[0][1].items():
            assert torch.allclose(weight, states[1][1][name], rtol=0, atol=1e-9), name

    def test_a_loss_without_gradient_is_refused(self) -> None:
        loss = torch.ones(3, requires_grad=True).mean()
        losses = {"loss": loss, "count": torch.tensor(3), "example_loss": torch.ones(3)}
        with pytest.raises(UserError, match="no gradient"):
            weighted(losses, torch.ones(3))

    def test_metrics_are_not_weighted(self) -> None:
        case = load_case("rotation")
        first = case.training().step(0, next(iter(case.training().read(0, 1))), make_plan(case.recipe.optimizer, 0, 2))
        reader = Weighted(case.reader(), torch.linspace(0, 1, len(case.reader())))
        training = Training(case.objective(), reader, case.recipe, Runtime("float32"))
        second = training.step(0, next(iter(training.read(0, 1))), make_plan(case.recipe.optimizer, 0, 2))
        assert first["accuracy"] == pytest.approx(second["accuracy"]) and first["loss"] != second["loss"]


class TestWeightsFile:
    def test_train_honors_them_and_goes_on(self, audited: tuple, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("selfsup.training.report", lambda *_: None)
        weights = tmp_path / "w.parquet"
        weights.write_bytes((audited[0] / "w.parquet").read_bytes())
        run = selfsup.train(tiny(weights=str(weights)), tmp_path / "run", data=digits(), quiet=True)
        assert run.recipe.data.weights == str(weights) and run.step == 12
        found = parquet.read_table(weights)["weight"].to_pylist()
        assert len(found) == run.facts.rows and 0.1 <= min(found) < max(found) <= 1
        weights.write_bytes(weights.read_bytes() + b" ")
        with pytest.raises(UserError, match="has changed since"):
            selfsup.resume(run.folder, more=1, data=digits(), quiet=True)
        weights.write_bytes((audited[0] / "w.parquet").read_bytes())
        assert selfsup.resume(run.folder, more=1, data=digits(), quiet=True).step == 13

    def test_others_are_refused_in_one_line(self, audited: tuple, tmp_path: Path) -> None:
        weights = str(audited[0] / "w.parquet")
        with pytest.raises(UserError, match=r"is for other data: .* rows with the digest .*; audit these") as caught:
            selfsup.train(tiny(weights=weights), tmp_path / "run", data=digits(95), quiet=True)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
        (tmp_path / "book.txt").write_text("The quick brown fox jumps over the lazy dog. " * 300)
        recipe = selfsup.recipe("word2vec", data=str(tmp_path / "book.txt"), steps=2, batch=2, row=64, min_count=1)
        prepared = prepare(recipe.data, None, False, Progress(False))
        rows = len(selfsup.objective.load_objective("word2vec").reader(recipe.config, prepared.train))
        parquet.write_table(weights_table(np.ones(rows), prepared.facts.content), tmp_path / "words.parquet")
        with pytest.raises(UserError, match="word2vec has no loss of each row"):
            selfsup.train(
                replace(recipe, data=replace(recipe.data, weights=str(tmp_path / "words.parquet"))), tmp_path / "run",
                quiet=True,
            )  # fmt: skip
        assert not (tmp_path / "run").exists()

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        def refused(said: str, weights: np.ndarray | None = None) -> None:
            if weights is not None:
                parquet.write_table(weights_table(weights, "key"), tmp_path / "w.parquet")
            with pytest.raises(UserError, match=said):
                load_weights(str(tmp_path / "w.parquet"), "key", 3)

        refused("no such file")
        (tmp_path / "w.parquet").write_text("row,weight\n")
        refused("no Parquet file")
        parquet.write_table(weights_table(np.ones(3), "key").replace_schema_metadata({}), tmp_path / "w.parquet")
        refused("as selfsup audit writes")
        for about in (b"no JSON", b"[]", b'{"content": "key"}', b'{"content": "key", "rows": "some"}'):
            whole = weights_table(np.ones(3), "key").replace_schema_metadata({b"selfsup": about})
            parquet.write_table(whole, tmp_path / "w.parquet")
            refused("as selfsup audit writes")
        words = pa.table({"row": np.arange(3), "weight": ["a", "b", "c"]})
        about = weights_table(np.ones(3), "key").schema.metadata
        parquet.write_table(words.replace_schema_metadata(about), tmp_path / "w.parquet")
        refused("as selfsup audit writes")
        refused("for other data: 4 rows", np.ones(4))
        refused("0 or more", np.array([1.0, np.nan, 1.0]))
        refused("0 or more", np.array([1.0, -1.0, 1.0]))
        refused("0 or more", np.zeros(3))
        parquet.write_table(weights_table(np.array([0.5, 1.0, 0.0]), "key"), tmp_path / "w.parquet")
        assert load_weights(str(tmp_path / "w.parquet"), "key", 3).tolist() == [0.5, 1.0, 0.0]

    def test_the_loader_adds_them(self) -> None:
        case = load_case("rotation")
        reader = Weighted(case.reader(), torch.arange(len(case.reader())) / 7)
        ((batch, draw),) = batches(reader, [(0, np.array([3, 14, 0]))], 0)
        plain = case.reader().gather(draw)
        assert batch["weight"].tolist() == pytest.approx([3 / 7, 2, 0]) and batch.keys() - plain.keys() == {"weight"}

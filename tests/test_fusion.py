"""Several objectives on one encoder: the contract, by hand, and what is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract import test_contract as contract
from contract.case import Case, load_case, steps
from selfsup import recipe
from selfsup.answers import losses_of
from selfsup.audit import audit
from selfsup.backbones import TowerBackbone
from selfsup.cli import run as command
from selfsup.data.draw import Draw
from selfsup.data.reader import Reader
from selfsup.errors import UserError
from selfsup.eval.card import evaluate
from selfsup.folds import Scores
from selfsup.fusion import Fused
from selfsup.fusion.reader import FusedReader
from selfsup.names import parts_of
from selfsup.objective import load_objective
from selfsup.ops.weighting import weighted
from selfsup.parse import training as parse_training
from selfsup.recipes import Budget
from selfsup.settings import to_json
from selfsup.suitability import Question
from selfsup.training import train

NAMES = ["simclr+mae", "clip+simclr", "masked_lm+contrastive_text"]
CONTRACT = [
    contract.test_recipe_survives_json,
    contract.test_same_draw_same_views,
    contract.test_the_views_of_a_row_do_not_depend_on_its_batch,
    contract.test_given_views_change_nothing,
    contract.test_losses_are_whole,
    contract.test_every_trainable_weight_learns,
    contract.test_the_loss_on_one_batch_falls,
]


pytestmark = pytest.mark.usefixtures("cache", "one_thread", "no_pictures")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


@pytest.mark.parametrize("owed", CONTRACT, ids=lambda owed: owed.__name__)
def test_what_an_objective_owes(case: Case, owed):
    owed(case)


def test_the_loss_is_the_weighted_sum_of_those_of_the_parts():
    case = load_case("simclr+mae")
    objective = case.objective()
    assert isinstance(objective, Fused)
    objective.weights = {"simclr": 0.5, "mae": 3.0}
    batch, draw = case.batch(range(8))
    losses = objective(batch, draw)
    losses["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in objective.named_parameters() if weight.grad is not None}
    objective.zero_grad()
    simclr, mae = objective.named().values()
    picture = {key: batch[f"simclr.{key}"] for key in ("image", "height", "width")}
    one, other = simclr(picture, draw.part("simclr"))["loss"], mae(picture, draw.part("mae"))["loss"]
    total = 0.5 * one + 3.0 * other
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert [losses[f"{name}.loss"].item() for name in ("simclr", "mae")] == pytest.approx([one.item(), other.item()])
    total.backward()
    for name, weight in objective.named_parameters():
        assert weight.grad is None or torch.allclose(weight.grad, found[name], rtol=1e-4, atol=1e-6), name


def test_the_encoder_is_one():
    case = load_case("simclr+mae")
    objective = case.objective()
    assert isinstance(objective, Fused)
    simclr, mae = (part.encoders()["image"] for part in objective.named().values())
    assert simclr.module is mae.module is objective.encoders()["image"].module
    assert len({id(weight) for weight in objective.parameters()}) == len(list(objective.parameters()))
    alone = sum(weight.numel() for name in ("simclr", "mae") for weight in part(objective, name).parameters())
    shared = sum(weight.numel() for weight in simclr.module.parameters())
    assert sum(weight.numel() for weight in objective.parameters()) == alone - shared


def part(objective: Fused, name: str) -> torch.nn.Module:
    return objective.named()[name]


def test_each_part_draws_numbers_of_its_own():
    case = load_case("rotation+jigsaw")
    drawn: list[str] = []
    stream = Draw.stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draw, "stream", lambda self, name: drawn.append(self.prefix) or stream(self, name))
        batch, draw = case.batch(range(4))
        case.objective().views(batch, draw)
    assert set(drawn) == {"rotation/", "jigsaw/"}


ASKED: list[str] = []


class Numbers(Reader):
    """Rows that are their own numbers."""

    def __init__(self, count: int, kind: str) -> None:
        self.count, self.kind, self.asked = count, kind, ASKED

    def __len__(self) -> int:
        return self.count

    def gather(self, draw, companions=None):
        self.asked.append(self.kind)
        return {"row": draw.rows.clone()}


def test_shorter_readers_come_again_and_longer_ones_go_on():
    reader = FusedReader({"first": Numbers(4, "a"), "short": Numbers(3, "b"), "long": Numbers(10, "c")})
    found = [reader.gather(Draw(0, epoch, torch.arange(4))) for epoch in (0, 1, 2, -1)]
    assert len(reader) == 4 and all(batch["first.row"].tolist() == [0, 1, 2, 3] for batch in found)
    assert found[0]["short.row"].tolist() == [0, 1, 2, 0] and found[1]["short.row"].tolist() == [1, 2, 0, 1]
    assert torch.cat([batch["long.row"] for batch in found[:3]]).tolist() == [*range(10), 0, 1]
    assert found[3]["long.row"].tolist() == [0, 1, 2, 3]


def test_equal_readers_gather_once():
    ASKED.clear()
    readers = {"first": Numbers(4, "a"), "same": Numbers(4, "a"), "other": Numbers(4, "b")}
    batch = FusedReader(readers).gather(Draw(0, 0, torch.arange(2)))
    assert ASKED == ["a", "b"]
    assert batch["same.row"] is batch["first.row"]


# Recipes and the command line


def test_a_recipe_can_be_pickled():
    made = recipe("simclr+mae", mae_weight=0.5)
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_network_is_as_any_part_asks():
    """A patch of 4 is MAE's, and the rest SimCLR's."""
    tiny = [load_objective(name).tiny() for name in ("simclr", "mae", "simclr+mae")]
    assert tiny[0].backbone.patch is None and tiny[2].backbone == replace(
        tiny[0].backbone, patch=tiny[1].backbone.patch
    )  # type: ignore[union-attr]
    assert (tiny[2].optimizer, tiny[2].budget, tiny[2].data) == (tiny[0].optimizer, tiny[0].budget, tiny[0].data)


def test_settings_have_the_name_of_their_part():
    given = [
        "--out",
        "x",
        "--simclr-temperature",
        "0.2",
        "--mae-weight",
        "0.5",
        "--mae-mask-rate",
        "0.6",
        "--batch",
        "8",
    ]
    made, _ = parse_training("simclr+mae", given)
    assert (made.config.simclr_temperature, made.config.mae_weight, made.optimizer.batch) == (0.2, 0.5, 8)
    assert made.config.mae_mask_rate == 0.6 and made.config.simclr_weight == 1.0
    same = recipe("simclr+mae", simclr_temperature=0.2, mae_weight=0.5, mae_mask_rate=0.6, batch=8)
    assert same.config == made.config
    first = load_objective("simclr").recipe()
    assert (made.budget, made.optimizer.rate) == (first.budget, first.optimizer.rate)


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "simclr+word2vec": "word2vec changes its weights by itself",
        "simclr+masked_lm": "no encoder in common",
        "simclr+simclr": "named twice",
        "simclr+maee": "did you mean 'mae'",
        "+simclr": "no objective ''",
    }.items(),
)
def test_what_cannot_be_fused_is_refused_in_a_line(name: str, said: str):
    with pytest.raises(UserError, match=said) as caught:
        load_objective(name).recipe()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    {
        "train causal_lm+masked_lm --data sample:prose --steps 1": "no encoder in common",
        "train simclr+mae --data sample:digits --steps 1 --temperature 1": "did you mean '--simclr-temperature'",
        "train simclr+mae --data sample:digits --steps 1 --mae-weight 0": "--mae-weight",
        "train simclr+rotation --data sample:digits --steps 1 --simclr-chunk 8": "simclr: --chunk 8: batch norm",
        "train simclr+mae --data sample:digits --steps 1 --micro 2": "--simclr-chunk",
        "train masked_lm+contrastive_text --data sample:prose --steps 1 --contrastive-text-mine-every 5": "do not mine",
    }.items(),
)
def test_the_command_line_refuses_in_a_line(words: str, said: str, tmp_path):
    with pytest.raises(UserError) as caught:
        command([*words.split(), "--out", str(tmp_path / "run")])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_help_and_show_know_what_is_fused(capsys):
    with pytest.raises(SystemExit):
        command(["train", "simclr+mae", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--simclr-temperature" in shown and "Of the loss of mae in the sum." in shown
    assert command(["show", "simclr+mae", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(to_json(load_objective("simclr+mae").recipe())))
    assert command(["show", "simclr+mae"]) == 0
    assert "MAE: " in capsys.readouterr().out


def test_a_file_of_yours_can_be_a_part(tmp_path):
    rotation = Path(load_objective("rotation").__file__)  # type: ignore[attr-defined]
    (tmp_path / "mine.py").write_text(rotation.read_text())
    name = f"{tmp_path / 'mine.py'}+simclr"
    made = load_objective(name).tiny()
    run = train(made, tmp_path / "run", quiet=True)
    assert run.recipe.config.mine_weight == 1.0 and "mine.accuracy" in run.lines("metrics.jsonl")[-1]


# Runs


def test_a_run_of_language_is_scored_by_the_part_that_fills(tmp_path):
    case = load_case("masked_lm+sentence_order")
    run = train(case.run_recipe(4), tmp_path / "run", quiet=True)
    found = evaluate(run.folder, quiet=True)
    assert {line["task"] for line in found} >= {"language", "order"}


def test_a_run_of_pictures_and_captions_starts_another(tmp_path):
    """Its pair comes along with its temperature, which the setting of its part overrides."""
    case = load_case("clip+simclr")
    run = train(case.run_recipe(2), tmp_path / "run", quiet=True)
    backbone = TowerBackbone(image_init=str(run.folder), text_init=str(run.folder))
    for temperature in (None, 0.5):
        config = replace(case.recipe.config, clip_temperature=temperature)
        data = replace(case.recipe.data, tokenizer="caption")
        again = replace(case.recipe, backbone=backbone, config=config, data=data, budget=Budget(steps=1))
        made = train(again, tmp_path / f"again-{temperature}", quiet=True)
        (before, after) = (one.untrained().predictors()[0] for one in (run, made))
        expected = 1 / 0.5 if temperature else float(run.objective().predictors()[0].scale)
        assert float(after.scale) == pytest.approx(expected, rel=1e-5) and before.kind == after.kind == "pair"


def test_workers_change_nothing():
    contract.test_workers_change_nothing(load_case("simclr+mae"))


def test_the_log_has_the_losses_of_the_parts():
    (line,) = steps(load_case("simclr+mae").training(), 1)
    assert line["loss"] == pytest.approx(line["simclr.loss"] + line["mae.loss"], rel=1e-5)
    assert line["trivial"] == pytest.approx(line["simclr.trivial"] + line["mae.trivial"], rel=1e-5)
    assert np.isfinite(list(line.values())).all()


def test_weights_of_rows_weigh_all_parts(tmp_path):
    """Ones change nothing; a weight of zero leaves a row out of the losses of both."""
    case = load_case("simclr+mae")
    found = []
    for weight in (None, torch.ones(8), torch.tensor([1.0] * 7 + [0.0])):
        training = case.training(batch=8, micro=1)
        batch, draw = case.batch(range(8))
        losses = training.steps.losses({**batch, **({} if weight is None else {"weight": weight})}, draw, 1.0)
        found.append((losses["loss"].item(), losses["example_loss"].detach()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[2][0] == pytest.approx(found[0][1][:7].mean().item(), rel=1e-5)


def test_an_audit_asks_the_questions_of_all_parts(tmp_path):
    made = load_objective("rotation+jigsaw").tiny()
    found = audit(replace(made, budget=Budget(steps=2)), tmp_path / "audit", draws=1, quiet=True)
    assert {one["name"] for one in found["questions"]} == {"rotation.accuracy", "jigsaw.accuracy"}


def test_weights_of_rows_with_several_terms_are_those_of_the_part():
    """Of masked words: rows differ in how many are hidden."""
    case = load_case("masked_lm")
    part = case.objective()
    batch, draw = case.batch(range(8))
    weight = torch.tensor([1.0, 1.0, 0.5, 0.0, 2.0, 0.1, 0.0, 1.0])
    fused = Fused({"words": part}, {"words": 2.0})
    inside = {**{f"words.{name}": value for name, value in batch.items()}, "weight": weight}
    found, right = fused(inside, draw), weighted(part(batch, draw.part("words")), weight)
    assert found["loss"].item() == pytest.approx(2 * right["loss"].item(), rel=1e-5)
    assert found["words.accuracy"].item() == pytest.approx(right["accuracy"].item(), rel=1e-5)
    assert torch.equal(found["count"], found["terms"])


def test_parts_with_other_rows_are_neither_audited_nor_weighed(tmp_path):
    made = load_objective("masked_lm+contrastive_text").tiny()
    with pytest.raises(UserError, match="the parts have different rows") as caught:
        audit(made, tmp_path / "audit", quiet=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "audit" / "asked.json").exists()


def test_a_part_without_a_question_is_judged_by_its_loss(tmp_path):
    made = load_objective("rotation+mae").tiny()
    found = audit(replace(made, budget=Budget(steps=1)), tmp_path / "audit", draws=1, quiet=True)
    assert found["verdict"] == "does not suit" and [one["name"] for one in found["questions"]] == ["rotation.accuracy"]
    metrics = {
        "rotation.loss": (0.1, 0.0), "rotation.trivial": (1.4, 0.0), "rotation.accuracy": (0.9, 0.0),
        "mae.loss": (1.0, 0.0), "mae.trivial": (1.0, 0.0),
    }  # fmt: skip
    nothing = np.zeros(1)
    guesses, learned = {"rotation.accuracy": 0.25}, {"mae.loss": 0.5}
    scores = Scores(nothing, nothing, nothing, nothing, nothing, metrics, guesses, (), learned)
    (left,) = losses_of(scores, [Question("rotation.accuracy", 0.9, 0.0, 0.25, 0.9)])
    assert (left.name, left.gain, left.gain_learned) == ("mae.loss", 0.0, 0.5)


def test_paths_may_have_a_plus_in_them():
    assert parts_of("simclr+mae") == ["simclr", "mae"]
    assert parts_of("/c++/mine.py+mae") == ["/c++/mine.py", "mae"]
    assert parts_of("mae+./p+q/mine.py") == ["mae", "./p+q/mine.py"]
    assert parts_of("simclr+maee") == ["simclr", "maee"] and parts_of("+simclr") == ["", "simclr"]

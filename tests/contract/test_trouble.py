"""Budgets, and what goes wrong in a run: it ends with one line, and keeps what it had."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from contract.case import FAMILIES, NAMES, Case, differing, load_case, untimed
from contract.processes import start, train_on_full_disk
from selfsup import training as verbs
from selfsup.errors import UserError
from selfsup.loop import Training
from selfsup.planning import make_plan
from selfsup.recipes import Budget
from selfsup.run import Run
from selfsup.training import resume, train

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


# Minutes


def test_timing_leaves_no_trace(case: Case):
    training = case.training()
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    plan = make_plan(training.recipe.optimizer, 0, 10)
    assert 1e-4 < training.time_steps(plan) < 5
    assert differing(dict(training.objective.state_dict()), before) == []
    fresh = case.training()
    assert differing(training.state(), fresh.state()) == []
    one, other = (t.step(0, [case.batch(range(t.order.batch))], plan) for t in (training, fresh))
    assert one == other and differing(training.state(), fresh.state()) == []


def test_minutes_become_steps(case: Case, tmp_path, monkeypatch: pytest.MonkeyPatch):
    """About as long as asked, planned steps written down, and equal to a run with as many `steps`."""
    minutes, timed = 0.03, Training.time_steps
    # Two seconds are short, and other tests run beside: with a margin it is not planned anew for every hiccup.
    monkeypatch.setattr(Training, "time_steps", lambda *arguments: 1.5 * timed(*arguments))
    recipe = case.run_recipe(1)
    recipe = replace(recipe, watch=replace(recipe.watch, check_every=10**6))
    for attempt in range(4):
        run = train(replace(recipe, budget=Budget(minutes=minutes)), tmp_path / f"minutes{attempt}", quiet=True)
        assert run.step == run.record["plan"]["stop"] == run.lines("metrics.jsonl")[-1]["step"]
        assert minutes * 60 / 5 < run.record["seconds"] < minutes * 60 * 5
        if "replanned_at" not in run.record:  # it is where the machine grew slower after the timing
            break
    else:
        pytest.fail("replanned each time: the timing is too short by far")
    same = train(replace(recipe, budget=Budget(steps=run.step)), tmp_path / "steps", quiet=True)
    assert untimed(same.lines("metrics.jsonl")) == untimed(run.lines("metrics.jsonl"))
    assert differing(same.state(), run.state()) == []


def test_an_overrun_plans_once_more(tmp_path, monkeypatch: pytest.MonkeyPatch):
    case, step = load_case(NAMES[0]), Training.step
    recipe = replace(case.run_recipe(1), budget=Budget(minutes=0.02))
    monkeypatch.setattr(Training, "time_steps", lambda *_: 0.02 * 60 / 40)  # forty steps, but each takes longer:
    monkeypatch.setattr(Training, "step", lambda *arguments: time.sleep(0.05) or step(*arguments))
    run = train(recipe, tmp_path / "run", quiet=True)
    record = run.record
    assert record["replanned_at"] == 10 < record["plan"]["stop"] == run.step < 30
    lines = untimed(run.lines("metrics.jsonl"))
    assert lines[-1]["step"] == run.step
    assert lines[-1]["rate"] < 0.1 * recipe.optimizer.rate, "the rate does not fall to the end"
    assert resume(run.folder, quiet=True).step == run.step
    assert untimed(run.lines("metrics.jsonl")) == lines


# Numbers that are none


def test_a_loss_that_is_no_number_stops_the_run(case: Case, tmp_path, monkeypatch: pytest.MonkeyPatch):
    kind, steps = type(case.objective()), []

    def poison(self: torch.nn.Module, progress: float) -> None:
        steps.append(progress)
        if len(steps) == 7:
            with torch.no_grad():
                next(weight for weight in self.parameters() if weight.requires_grad).fill_(torch.nan)

    monkeypatch.setattr(kind, "after_step", poison)
    with pytest.raises(UserError, match=r"not finite at step 7, rows \[\d+, .*--rate") as caught:
        train(case.run_recipe(12, save_every=3), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    run = Run(tmp_path / "run")
    assert run.step == 6 and len(run.lines("metrics.jsonl")) == 7
    assert all(value.isfinite().all() for value in run.objective().state_dict().values())
    assert all(run.encoder().module.state_dict()[name].isfinite().all() for name in run.encoder().module.state_dict())
    monkeypatch.undo()
    monkeypatch.setattr(verbs, "report", lambda *_: None)
    assert resume(run.folder, quiet=True).step == 12  # without the poison it goes on


# Folders


def test_a_folder_that_is_taken_is_left_alone(case: Case, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    recipe = case.run_recipe(2)
    reasons = {"run": "already holds a run", "mine": "not empty", "file": "not empty", "file/run": "cannot write"}
    for place, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            train(recipe, tmp_path / place, quiet=True)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"run", "run.json", "mine", "notes.txt", "file"}
    with pytest.raises(UserError, match="it is no run"):
        resume(tmp_path / "mine", quiet=True)


def test_leftovers_of_a_run_killed_before_its_start_are_no_hindrance(case: Case, tmp_path, monkeypatch):
    folder, recipe = tmp_path / "run", case.run_recipe(2)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("selfsup.run.os.replace", killed)  # what makes run.json, the last that is written
        with pytest.raises(Killed):
            train(recipe, folder, quiet=True)
    assert folder.exists() and not (folder / "run.json").exists()
    assert train(recipe, folder, quiet=True).step == 2


# A full disk


def test_a_full_disk_ends_in_one_line(case: Case, tmp_path):
    folder, recipe = tmp_path / "run", case.run_recipe(12, save_every=3)
    child = start(train_on_full_disk, recipe, folder, 6)
    child.join(60)
    assert child.exitcode == 2
    said = folder.with_suffix(".log").read_text()
    assert said.startswith("cannot write ") and "\n" not in said and "nothing written before is lost" in said
    run = Run(folder)
    assert run.step == 6
    assert run.objective().state_dict().keys() == case.objective().state_dict().keys()
    whole = train(recipe, tmp_path / "whole", quiet=True)
    resumed = resume(folder, quiet=True)
    assert differing(resumed.state(), whole.state()) == []
    assert untimed(resumed.lines("metrics.jsonl")) == untimed(whole.lines("metrics.jsonl"))

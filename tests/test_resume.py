"""Killed, stopped, extended: a run that goes on equals one that was never stopped, bit for bit on a CPU."""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from contract.case import FAMILIES, FUSED, NAMES, Case, differing, load_case, untimed
from contract.processes import resume_slowly, start, train_slowly, warm_up
from selfsup.errors import UserError
from selfsup.run import Run
from selfsup.training import resume, train

EVERY = 3  # steps between two checkpoints
PLAIN = ["simclr", "masked_lm"]  # enough where no state of an objective is asked for


class Killed(BaseException):
    """In place of a signal where the moment matters."""


def kill(*_: object) -> None:
    raise Killed


pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture(autouse=True)
def warm(cache):
    warm_up()


@pytest.fixture(params=PLAIN)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


def assert_equal(first: Run, second: Run) -> None:
    """Losses, held-out losses, weights, optimizer and what leaves the run."""
    for name in ("metrics.jsonl", "evals.jsonl"):
        assert untimed(first.lines(name)) == untimed(second.lines(name)), name
    assert first.step == second.step
    assert differing(first.state(), second.state()) == []
    assert model_files(first) == model_files(second)


def model_files(run: Run) -> dict[str, bytes]:
    """The content of `model/`."""
    paths = [path for path in (run.folder / "model").rglob("*") if path.is_file()]
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in paths}


def latest(folder: Path) -> int:
    """Step of the latest checkpoint, also of a folder that is no run yet."""
    return Run(folder).step if (folder / "run.json").exists() else 0


def logged(folder: Path) -> int:
    """Last step that a run has logged."""
    lines = Run(folder).lines("metrics.jsonl") if (folder / "run.json").exists() else []
    return lines[-1]["step"] if lines else 0


def interrupt(work, arguments: tuple, folder: Path, number: int, chance: random.Random) -> int | None:
    """Start a child, send it a signal at some moment after its next checkpoint, and return how it ended."""
    before = latest(folder)
    target = before + EVERY + chance.randrange(EVERY + 2)
    child, end = start(work, *arguments), time.monotonic() + 60
    while (latest(folder) <= before or logged(folder) < target) and child.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.02))  # anywhere in a step, a log line or a checkpoint
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(60)
    assert before < latest(folder), "no checkpoint of its own"
    return child.exitcode


@pytest.mark.parametrize("case", NAMES + FUSED, indirect=True)
def test_killed_and_resumed_equals_never_stopped(case: Case, tmp_path):
    """A kill of every objective, and two kinds of stop of one; each at a random moment after another checkpoint."""
    stopped = case.name == PLAIN[0]
    steps = 36 if stopped else 16  # an interruption comes at most 10 steps after the last
    recipe = case.run_recipe(steps, save_every=EVERY)
    whole, folder = train(recipe, tmp_path / "whole", quiet=True), tmp_path / "run"
    chance = random.Random(case.name)
    assert interrupt(train_slowly, (recipe, folder), folder, signal.SIGKILL, chance) == -signal.SIGKILL
    if stopped:
        assert interrupt(resume_slowly, (folder,), folder, signal.SIGINT, chance) == 130
        assert interrupt(resume_slowly, (folder,), folder, signal.SIGTERM, chance) == 143
        said = folder.with_suffix(".log").read_text().strip().splitlines()[-1]
        found = re.fullmatch(rf"stopped at step (\d+) of {steps}; go on with selfsup resume {folder}", said)
        assert found and int(found[1]) == Run(folder).step, said
    assert Run(folder).step < steps
    assert_equal(resume(folder, quiet=True), whole)


@pytest.fixture(scope="module")
def six_steps(cache, tmp_path_factory) -> Callable[[Case], Run]:
    """A run of six steps with two checkpoints, once for each objective."""

    @functools.cache
    def of(name: str) -> Run:
        return train(load_case(name).run_recipe(6, save_every=3), tmp_path_factory.mktemp("six") / name, quiet=True)

    return lambda case: of(case.name)


def test_killed_before_the_first_checkpoint(case: Case, six_steps, tmp_path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", kill)
        with pytest.raises(Killed):
            train(case.run_recipe(6, save_every=3), tmp_path / "run", quiet=True)
    assert latest(tmp_path / "run") == 0 and Run(tmp_path / "run").lines("metrics.jsonl")
    assert_equal(resume(tmp_path / "run", quiet=True), six_steps(case))


@pytest.mark.parametrize("moment", ["save_model", "update"])
def test_killed_at_the_very_end(case: Case, six_steps, tmp_path, moment: str, monkeypatch: pytest.MonkeyPatch):
    """The last checkpoint is there, the model or the closing lines are not."""
    whole = six_steps(case)
    real = {"save_model": Run.save_model, "update": Run.update}[moment]

    def killed(run: Run, given: object) -> None:
        if run.step == 6:
            raise Killed
        real(run, given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, killed)
        with pytest.raises(Killed):
            train(case.run_recipe(6, save_every=3), tmp_path / "run", quiet=True)
    run = resume(tmp_path / "run", quiet=True)
    assert_equal(run, whole)
    assert run.record.keys() == whole.record.keys()


def test_a_finished_run_is_left_as_it_is(case: Case, six_steps):
    run = six_steps(case)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    assert resume(run.folder, quiet=True).step == 6
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


# More steps


def test_more_of_a_trapezoid_equals_the_longer_run(case: Case, tmp_path):
    """The same share of cool-down and the same number of warm-up steps: 2 of 10, and of 15.

    Not so of `dino`, whose teacher goes by shares of the run, which are others in a longer one.
    """
    settings = {"schedule": "trapezoid", "cooldown": 0.2}
    short = train(case.run_recipe(10, warmup=2 / 10, **settings), tmp_path / "short", quiet=True)
    longer = resume(short.folder, more=5, quiet=True)
    straight = train(case.run_recipe(15, warmup=2 / 15, **settings), tmp_path / "straight", quiet=True)
    assert longer.record["plan"] == straight.record["plan"]
    assert untimed(longer.lines("metrics.jsonl")) == untimed(straight.lines("metrics.jsonl"))
    assert differing(longer.state(), straight.state()) == []
    twice = resume(longer.folder, more=10, quiet=True)
    assert twice.step == 25 and [line["step"] for line in twice.lines("metrics.jsonl")] == list(range(1, 26))


@pytest.mark.parametrize("case", FAMILIES, indirect=True)
def test_more_of_a_cosine_goes_on(case: Case, tmp_path):
    run = train(case.run_recipe(20), tmp_path / "run", quiet=True)
    before = untimed(run.lines("metrics.jsonl"))
    run = resume(run.folder, more=20, quiet=True)
    lines = untimed(run.lines("metrics.jsonl"))
    assert lines[:20] == before and [line["step"] for line in lines] == list(range(1, 41))
    losses = torch.tensor([line["loss"] for line in lines])
    assert losses.isfinite().all() and losses[-8:].mean() < losses[:8].mean()
    assert max(line["rate"] for line in lines[20:]) == pytest.approx(case.recipe.optimizer.rate)


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
def test_more_survives_a_kill(case: Case, tmp_path, schedule: str, monkeypatch: pytest.MonkeyPatch):
    """A run that was given more and killed before its next checkpoint keeps what it was given."""
    recipe = case.run_recipe(10, schedule=schedule, warmup=0.2)
    runs = [
        train(recipe, tmp_path / "whole", quiet=True),
        Run(shutil.copytree(tmp_path / "whole", tmp_path / "killed")),
    ]
    whole = resume(runs[0].folder, more=6, quiet=True)

    with monkeypatch.context() as patch:
        patch.setattr("selfsup.loop.Training.step", kill)
        with pytest.raises(Killed):
            resume(runs[1].folder, more=6, quiet=True)
    assert_equal(resume(runs[1].folder, quiet=True), whole)


def test_resume_refuses_other_data(case: Case, tmp_path):
    run = train(case.run_recipe(2), tmp_path / "run", quiet=True)
    record = run.record
    run.update({"facts": {**record["facts"], "rows": record["facts"]["rows"] + 1}})
    with pytest.raises(UserError, match=r"has changed since .* start a new run") as caught:
        resume(run.folder, quiet=True)
    assert "\n" not in str(caught.value)

"""From what a user has to a finished run: everything before the first step and after the last."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from selfsup.backbones import WordBackbone
from selfsup.checks import Checks
from selfsup.construct import construct
from selfsup.cost import Meter
from selfsup.data.captions import CaptionStore
from selfsup.data.facts import of_pictures
from selfsup.data.source import Data
from selfsup.data.token_store import TokenStore
from selfsup.data.weights import Weighted, file_digest, load_weights
from selfsup.errors import UserError
from selfsup.eval.findings import out_of_range
from selfsup.eval.labelled import Labelled, open_labelled
from selfsup.fields import chunk_flags
from selfsup.loop import Training
from selfsup.nn.norm import has_batch_statistics
from selfsup.objective import Objective, load_objective
from selfsup.optim import Plan
from selfsup.planning import count_steps, extend, make_plan
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress, clock
from selfsup.recipes import ImageData, Recipe
from selfsup.report import FEW, report
from selfsup.resolve import located, resolve
from selfsup.run import Run, check_free
from selfsup.runtime import Runtime
from selfsup.summary import describe
from selfsup.text_encoder import TextEncoder
from selfsup.weighting import require_row_losses

log = logging.getLogger("selfsup")


@contextmanager
def naming_relief(objective: Objective | None, config: object) -> Iterator[None]:
    """Turn exhausted memory into one line that names the flag which helps; no objective: it was too large to build."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not exhausted and "can't allocate memory" not in str(error):  # what a CPU says
            raise
        if objective is None:
            relief = "a smaller --size"
        elif any(has_batch_statistics(encoder.module) for encoder in objective.encoders().values()):
            relief = "a smaller --batch, --size or --pixels"
        elif not objective.couples_rows:
            relief = "--micro 2 or a smaller --batch"
        else:
            text = all(isinstance(encoder, TextEncoder) for encoder in objective.encoders().values())
            size = 4096 if text else 64  # tokens, or pictures
            relief = " or ".join([*(f"{flag} {size}" for flag in chunk_flags(config)), "a smaller --batch"])
        raise UserError(
            f"out of memory; start again with {relief}, and another --out if this one holds a run"
        ) from error


@dataclass(frozen=True)
class Ready:
    """A run about to begin: everything that is made before its first step.

    Attributes:
        training: objective, optimizers, order.
        checks: what is looked at on the way.
        prepared: the data.
        runtime: where it runs.
        progress: shows the work.
    """

    training: Training
    checks: Checks
    prepared: Prepared
    runtime: Runtime
    progress: Progress

    @classmethod
    def make(
        cls, recipe: Recipe, objective: Objective, prepared: Prepared, data: Data | None, runtime: Runtime,
        progress: Progress,
    ) -> Ready:  # fmt: skip
        """Readers over the data, the objective in training, and the looks at it.

        Held-out rows are read only where every process would have some.
        """
        module = load_objective(recipe.objective)
        reader = module.reader(recipe.config, prepared.train)
        weights = recipe.data.weights
        if weights is not None:
            reader = Weighted(reader, load_weights(weights, prepared.facts.content, len(reader)))
        training = Training(objective, reader, recipe, runtime)
        if weights is not None:
            require_row_losses(objective, reader, recipe, runtime, f"--weights {weights}")
        held_out = None
        if prepared.held_out is not None:
            try:
                held_out = module.reader(recipe.config, prepared.held_out)
            except UserError as error:
                log.warning("the held-out part is too small to be watched: %s", error)
        least = runtime.world * (2 if objective.couples_rows else 1)  # a lone row has nothing to be told from
        held_out = held_out if held_out is not None and len(held_out) >= least else None
        store = prepared.held_out if held_out is not None and prepared.held_out is not None else prepared.train
        labelled = labels_to_watch(recipe, prepared, data, progress)
        checks = Checks(objective, recipe, runtime, held_out, store, labelled, progress)
        return cls(training, checks, prepared, runtime, progress)

    def go(self, run: Run, plan: Plan, start: int) -> Run:
        """The loop, and what is written when it is done."""
        training, runtime = self.training, self.runtime
        minutes = training.recipe.budget.minutes
        deadline = minutes * 60 if minutes and not start else math.inf
        began, meter = time.perf_counter(), Meter(runtime.device)
        runtime.start_tracker({"objective": training.recipe.objective, **asdict(training.recipe.optimizer)})
        try:
            with naming_relief(training.objective, training.recipe.config):
                training.run(plan, start, run, self.checks, self.progress, deadline, meter)
            flops = training.flops()
            if runtime.main:
                self._finish(run, plan, flops, time.perf_counter() - began)
            runtime.wait()
        finally:
            if runtime.main:
                before = run.record
                energy = meter.energy()
                energy["kwh"] += before.get("energy", {}).get("kwh", 0.0)  # of the sittings before this one
                seconds = before.get("seconds", 0.0) + time.perf_counter() - began
                run.update({"seconds": seconds, "energy": energy, "peak_memory": runtime.peak_memory()})
            runtime.end()
        return run

    def _finish(self, run: Run, plan: Plan, flops: int | None, seconds: float) -> None:
        """Pictures, and the account of the work."""
        held_out = self.prepared.held_out
        few = held_out is None or len(held_out) < FEW
        report(
            run, self.training.objective, self.checks.held_out or self.training.reader,
            self.prepared.train if few else held_out,
        )  # fmt: skip
        samples = run.step * self.training.order.batch
        run.update({"samples": samples, "flops": flops and flops * run.step})
        said = f"done: {samples:,} samples in {clock(seconds)}; {run.folder}/model holds the result"
        self.progress.say(said)


def labels_to_watch(recipe: Recipe, prepared: Prepared, data: Data | None, progress: Progress) -> Labelled | None:
    """The labelled samples for a kNN score during training, where one was asked for.

    Raises:
        UserError: there are no labels.
    """
    watch = recipe.watch
    if not watch.eval_every:
        return None
    own = watch.eval_data is None
    settings = recipe.data if own else replace(recipe.data, source=watch.eval_data, columns=())
    pictures = of_pictures(prepared.facts)
    resolution = pictures.resolution if pictures else 0
    labelled = open_labelled(settings, data if own else None, resolution, progress)
    if labelled is None:
        raise UserError(f"--eval-every {watch.eval_every}: {settings.source} has no labels; name some with --eval-data")
    return labelled


def train(recipe: Recipe, out: str | os.PathLike, data: Data | None = None, quiet: bool = False) -> Run:
    """Train without labels.

    Args:
        recipe: what to do; see `selfsup.recipe`.
        out: a folder for the run that is empty or not there yet.
        data: objects given in Python, in place of the source that the recipe names.
        quiet: no progress on the terminal.

    Raises:
        UserError: something the user can mend.
        Stopped: a signal came; the run has saved itself.
    """
    folder = Path(out)
    check_free(folder)
    recipe = located(recipe, data)
    convolutions, on_cpu = isinstance(recipe.data, ImageData), isinstance(recipe.backbone, WordBackbone)
    runtime = Runtime(recipe.precision, convolutions, recipe.watch.tracker, folder, on_cpu)
    progress = Progress(shown=runtime.main and not quiet)
    prepared = prepare(recipe.data, data, runtime.device.type == "cuda", progress)
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    tokenizer = prepared.train.tokenizer_folder if isinstance(prepared.train, TokenStore | CaptionStore) else None
    with naming_relief(None, recipe.config):
        objective = construct(recipe, prepared.facts, tokenizer, None)
    ready = Ready.make(recipe, objective, prepared, data, runtime, progress)
    progress.say(describe(objective, prepared, recipe, runtime))
    for finding in out_of_range(recipe, objective.limits()):
        progress.say(f"doctor: {finding.said}")
    with naming_relief(objective, recipe.config):
        plan = make_plan(recipe.optimizer, 0, count_steps(recipe, ready.training, runtime, progress))
    if runtime.main:
        names = ("selfsup", "torch", "timm", "transformers", "accelerate", "numpy")
        more = {
            "plan": asdict(plan),
            "hardware": runtime.hardware(),
            "versions": {name: version(name) for name in names},
            "commit": runtime.commit(),
            "weights": file_digest(recipe.data.weights),
        }
        Run.create(folder, recipe, prepared.facts, more, tokenizer, objective if recipe.backbone.init else None)
    runtime.wait()
    return ready.go(Run(folder), plan, 0)


def resume(folder: str | os.PathLike, more: int | None = None, data: Data | None = None, quiet: bool = False) -> Run:
    """Go on with a run that was stopped or killed, exactly as if it had not been; or give a finished one more steps.

    Args:
        folder: the run.
        more: steps to add to the plan: after the last checkpoint with a short warm-up, or, for a trapezoid, after its
            plateau, which equals a longer run of as many warm-up steps (but for objectives that go by shares of the
            run, as the teacher of `dino` does).
        data: the objects that the run was given in Python.
        quiet: no progress on the terminal.
    """
    run = Run(folder)
    recipe = run.recipe
    on_cpu = isinstance(recipe.backbone, WordBackbone)
    runtime = Runtime(recipe.precision, tracker=recipe.watch.tracker, folder=run.folder, on_cpu=on_cpu)
    progress = Progress(shown=runtime.main and not quiet)
    prepared = prepare(run.data, data, runtime.device.type == "cuda", progress)
    if prepared.facts != run.facts:
        raise UserError(
            f"{recipe.data.source} has changed since {folder} was trained on it; start a new run, with --init {folder}"
        )
    if file_digest(recipe.data.weights) != run.record.get("weights"):
        raise UserError(f"{recipe.data.weights} has changed since {folder} began with it; put it back")
    ready = Ready.make(recipe, run.untrained(), prepared, data, runtime, progress)
    training = ready.training
    start, plan = run.step, Plan(**run.record["plan"])
    if start:
        plan = Plan(**run.state()["plan"])
    if more:
        start, plan = extend(run, training, start, plan, more)
    if start >= plan.stop and run.record.get("samples") == start * training.order.batch:
        progress.say(f"{folder} is complete at step {start}; give it more with --more STEPS")
        runtime.end()
        return run
    state = run.state(start) if start else {}
    runtime.wait()  # what the main process changes now, all have read
    if state:
        training.load(state)
    if runtime.main:
        _go_back(run, training, start, state, plan)
    progress.say(f"{folder} goes on at step {start} of {plan.stop}")
    return ready.go(run, plan, start)


def _go_back(run: Run, training: Training, start: int, state: dict[str, Any], plan: Plan) -> None:
    """Make the folder what it was at step `start`, with the plan from there on."""
    if state:
        if state["plan"] != asdict(plan):  # more steps: a kill before the next checkpoint must not lose them
            run.save(start, {**state, "plan": asdict(plan)}, {start}, training.recipe.watch.keep_every)
        run.save_model(training.objective)  # the kill may have come after the checkpoint and before the model
    run.forget_after(start)
    run.update({"plan": asdict(plan)})

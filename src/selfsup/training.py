"""From what a user has to a finished run: everything before the first step and after the last."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from selfsup.construct import construct
from selfsup.data.facts import ImageFacts
from selfsup.data.pixels import PixelStore
from selfsup.data.reader import Reader
from selfsup.data.source import GIVEN, Data
from selfsup.data.tokens import TokenStore
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.loop import Training
from selfsup.nn.norm import has_batch_statistics
from selfsup.objective import Objective, load_objective
from selfsup.optim import Plan
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress, clock
from selfsup.recipes import ImageBackbone, ImageData, Optimizer, Recipe, TextData
from selfsup.report import FEW, report
from selfsup.run import Run, check_free
from selfsup.runtime import Runtime
from selfsup.size import dial


def resolve(recipe: Recipe, prepared: Prepared, device: torch.device, precision: str) -> Recipe:
    """The recipe with everything decided that was left open; `describe` says what was."""
    facts, backbone, data = prepared.facts, recipe.backbone, recipe.data
    if backbone.size is None and not backbone.init and not (isinstance(backbone, ImageBackbone) and backbone.network):
        size = dial(facts, recipe.budget, torch.get_num_threads(), device.type == "cuda")
        backbone = replace(backbone, size=size)
    if isinstance(data, ImageData):
        kept = isinstance(prepared.train, PixelStore) and prepared.train.squares is not None
        workers = data.workers if data.workers is not None else (0 if kept else min(os.cpu_count() or 1, 8))
        assert isinstance(facts, ImageFacts)
        data = replace(data, pixels=facts.size, workers=workers)
    else:
        data = replace(data, workers=data.workers or 0)
    return replace(recipe, backbone=backbone, data=data, precision=precision)


def describe(objective: Objective, prepared: Prepared, recipe: Recipe, runtime: Runtime) -> str:
    """One line about what is going to be trained on what."""
    weights = sum(weight.numel() for weight in objective.parameters())
    facts, backbone = prepared.facts, recipe.backbone
    if isinstance(facts, ImageFacts):
        colors = {1: "gray", 3: "color"}.get(facts.channels, f"{facts.channels}-channel")
        what = f"{facts.rows:,} {colors} pictures of {facts.size} px"
    else:
        what = f"{facts.tokens:,} tokens of {facts.vocabulary:,} kinds ({facts.tokenizer})"
    if isinstance(backbone, ImageBackbone):
        named = backbone.network
    else:
        named = "a size of your own" if backbone.layers or backbone.heads or backbone.width else None
    network = backbone.init or named or f"size {backbone.size}"
    if any(isinstance(e, ImageEncoder) and e.about.stem for e in objective.encoders().values()):
        network += " with a stem of stride 1"
    where = f"{runtime.world} x {runtime.device.type}" if runtime.world > 1 else runtime.device.type
    return f"{recipe.objective}: {what}; {network}, {weights / 1e6:.2f} M weights, {recipe.precision} on {where}"


def make_plan(chosen: Optimizer, start: int, steps: int) -> Plan:
    """Rates for `steps` steps from `start` on."""
    warmup = max(round(chosen.warmup * steps), 1)
    if start:  # the weights are warm; the optimizer only has to find its pace again
        warmup = max(warmup // 10, 1)
    cooldown = max(round(chosen.cooldown * steps), 1)
    return Plan(start=start, stop=start + steps, warmup=warmup, cooldown=cooldown, schedule=chosen.schedule)


def count_steps(recipe: Recipe, training: Training, runtime: Runtime, progress: Progress) -> int:
    """Number of steps of the budget; minutes are turned into steps by timing some, which are undone."""
    budget = recipe.budget
    if budget.steps is not None:
        return budget.steps
    if budget.epochs is not None:
        return max(math.ceil(budget.epochs * training.order.steps_per_epoch), 1)
    assert budget.minutes is not None
    trial = Plan(start=0, stop=10**6, warmup=10**6, cooldown=1, schedule="linear")
    seconds = float(runtime.same(training.time_steps(trial)))  # type: ignore[arg-type]
    steps = max(int(budget.minutes * 60 / seconds), 1)
    epochs = steps / training.order.steps_per_epoch
    progress.say(f"{budget.minutes:g} minutes are {steps:,} steps of {seconds * 1e3:.0f} ms, {epochs:.1f} epochs")
    return steps


@contextmanager
def naming_relief(objective: Objective) -> Iterator[None]:
    """Turn exhausted memory into one line that names the flag which helps."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):  # what a CPU says
            raise
        if not objective.couples_rows:
            relief = "--micro 2 or a smaller --batch"
        elif any(has_batch_statistics(encoder.module) for encoder in objective.encoders().values()):
            relief = "a smaller --batch, --size or --pixels"
        else:
            relief = "--chunk 64 or a smaller --batch"
        raise UserError(
            f"out of memory; start again with {relief}, and another --out if this one holds a run"
        ) from error


def _readers(recipe: Recipe, prepared: Prepared, world: int) -> tuple[Reader, Reader | None]:
    """Reader of the training rows, and of the held-out ones where every process would have some."""
    module = load_objective(recipe.objective)
    held_out = module.reader(recipe.config, prepared.held_out) if prepared.held_out is not None else None
    reader = module.reader(recipe.config, prepared.train)
    return reader, held_out if held_out is not None and len(held_out) >= world else None


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
    if data is not None:
        name = os.fspath(data) if isinstance(data, str | os.PathLike) else GIVEN
        recipe = replace(recipe, data=replace(recipe.data, source=name))
    if recipe.objective.endswith(".py"):  # paths are made whole, so that the run can be resumed from any folder
        recipe = replace(recipe, objective=str(Path(recipe.objective).resolve()))
    if Path(recipe.data.source).expanduser().exists():
        source = str(Path(recipe.data.source).expanduser().resolve())
        recipe = replace(recipe, data=replace(recipe.data, source=source))
    if recipe.backbone.init and isinstance(recipe.data, TextData):  # its ids mean what its own tokenizer says
        asked, own = recipe.data.tokenizer, recipe.backbone.init
        if asked not in (TextData(source="").tokenizer, own):
            raise UserError(f"--tokenizer {asked}: --init {own} brings its own tokenizer; drop --tokenizer")
        recipe = replace(recipe, data=replace(recipe.data, tokenizer=own))
    runtime = Runtime(recipe.precision, convolutions=isinstance(recipe.data, ImageData))
    progress = Progress(shown=runtime.main and not quiet)
    prepared = prepare(recipe.data, data, runtime.device.type == "cuda", progress)
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    reader, held_out = _readers(recipe, prepared, runtime.world)
    tokenizer = Path(prepared.train.tokenizer.name_or_path) if isinstance(prepared.train, TokenStore) else None
    objective = construct(recipe, prepared.facts, tokenizer, None)
    training = Training(objective, reader, recipe, runtime)
    progress.say(describe(objective, prepared, recipe, runtime))
    with naming_relief(objective):
        plan = make_plan(recipe.optimizer, 0, count_steps(recipe, training, runtime, progress))
    if runtime.main:
        names = ("selfsup", "torch", "timm", "transformers", "accelerate", "numpy")
        more = {
            "plan": asdict(plan),
            "hardware": runtime.hardware(),
            "versions": {name: version(name) for name in names},
            "commit": runtime.commit(),
        }
        Run.create(folder, recipe, prepared.facts, more, tokenizer, objective if recipe.backbone.init else None)
    runtime.wait()
    return _go(Run(folder), training, plan, 0, held_out, prepared, runtime, progress)


def resume(folder: str | os.PathLike, more: int | None = None, data: Data | None = None, quiet: bool = False) -> Run:
    """Go on with a run that was stopped or killed, exactly as if it had not been; or give a finished one more steps.

    Args:
        folder: the run.
        more: steps to add to the plan: after the last checkpoint with a short warm-up, or, for a trapezoid, after its
            plateau, which equals a longer run of as many warm-up steps.
        data: the objects that the run was given in Python.
        quiet: no progress on the terminal.
    """
    run = Run(folder)
    recipe = run.recipe
    runtime = Runtime(recipe.precision)
    progress = Progress(shown=runtime.main and not quiet)
    prepared = prepare(run.data, data, runtime.device.type == "cuda", progress)
    if prepared.facts != run.facts:
        raise UserError(
            f"{recipe.data.source} has changed since {folder} was trained on it; start a new run, with --init {folder}"
        )
    reader, held_out = _readers(recipe, prepared, runtime.world)
    training = Training(run.untrained(), reader, recipe, runtime)
    start, plan = run.step, Plan(**run.record["plan"])
    if start:
        plan = Plan(**run.state()["plan"])
    if more:
        start, plan = _extend(run, training, start, plan, more)
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
    return _go(run, training, plan, start, held_out, prepared, runtime, progress)


def _extend(run: Run, training: Training, start: int, plan: Plan, more: int) -> tuple[int, Plan]:
    """Step at which a run that is given more steps goes on, and its longer plan."""
    recipe = training.recipe
    if plan.schedule != "trapezoid":
        return start, make_plan(recipe.optimizer, start, plan.stop - start + more)
    start = plan.flat_until if plan.flat_until in run.steps else start
    cooldown = max(round(recipe.optimizer.cooldown * (plan.stop - plan.start + more)), 1)
    return start, replace(plan, stop=plan.stop + more, cooldown=cooldown)


def _go_back(run: Run, training: Training, start: int, state: dict[str, Any], plan: Plan) -> None:
    """Make the folder what it was at step `start`, with the plan from there on."""
    if state:
        if state["plan"] != asdict(plan):  # more steps: a kill before the next checkpoint must not lose them
            run.save(start, {**state, "plan": asdict(plan)}, {start}, training.recipe.watch.keep_every)
        run.save_model(training.objective)  # the kill may have come after the checkpoint and before the model
    run.forget_after(start)
    run.update({"plan": asdict(plan)})


def _go(
    run: Run,
    training: Training,
    plan: Plan,
    start: int,
    held_out: Reader | None,
    prepared: Prepared,
    runtime: Runtime,
    progress: Progress,
) -> Run:
    """The loop, and what is written when it is done."""
    minutes = training.recipe.budget.minutes
    deadline = minutes * 60 if minutes and not start else math.inf
    began = time.perf_counter()
    try:
        with naming_relief(training.objective):
            training.run(plan, start, run, held_out, progress, deadline)
        if runtime.main:
            samples = run.step * training.order.batch
            few = prepared.held_out is None or len(prepared.held_out) < FEW
            shown = prepared.train if few else prepared.held_out
            report(run, training.objective, held_out or training.reader, shown)
            run.update({"samples": samples})
            seconds = clock(time.perf_counter() - began)
            progress.say(f"done: {samples:,} samples in {seconds}; {run.folder}/model holds the result")
        runtime.wait()
    finally:
        if runtime.main:
            seconds = run.record.get("seconds", 0.0) + time.perf_counter() - began
            run.update({"seconds": seconds, "peak_memory": runtime.peak_memory()})
        runtime.end()
    return run

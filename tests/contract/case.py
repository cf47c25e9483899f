"""An objective made ready for the contract suite: its tiny recipe, resolved, with prepared data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

import selfsup.data.source as source
from selfsup.construct import construct
from selfsup.data.captions import CaptionStore
from selfsup.data.draw import Draw
from selfsup.data.reader import Batch, Reader
from selfsup.data.token_store import TokenStore
from selfsup.fusion import Fused
from selfsup.loop import Training
from selfsup.names import objective_names
from selfsup.objective import Objective, ObjectiveModule, load_objective
from selfsup.planning import make_plan
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress
from selfsup.recipes import Budget, Optimizer, Recipe, Watch
from selfsup.resolve import resolve
from selfsup.runtime import Runtime

NAMES = list(objective_names())
# Those that have an optimizer; the others change their weights themselves, in one process and in float32.
BY_GRADIENT = [name for name in NAMES if isinstance(load_objective(name).tiny().optimizer, Optimizer)]
FUSED = ["simclr+mae"]  # which keeps the contract as its parts do
# For what the loop does whatever the objective: pictures, text, and one with a teacher and a clock of its own.
FAMILIES = ["simclr", "dino", "masked_lm"]
TIMES = {"samples_per_s", "wait"}  # what differs between two equal runs


@dataclass(frozen=True)
class Case:
    """One objective with its tiny recipe (resolved, float32) and its data."""

    name: str
    module: ObjectiveModule
    recipe: Recipe
    prepared: Prepared

    def reader(self) -> Reader:
        """The reader of the training rows."""
        return self.module.reader(self.recipe.config, self.prepared.train)

    def objective(self) -> Objective:
        """The objective before its first step, made anew."""
        store = self.prepared.train
        tokenizer = store.tokenizer_folder if isinstance(store, TokenStore | CaptionStore) else None
        return construct(self.recipe, self.prepared.facts, tokenizer, None)

    def batch(self, rows: Iterable[int], epoch: int = 0) -> tuple[Batch, Draw]:
        """The raw batch of some rows, and its draw."""
        draw = Draw(self.recipe.seed, epoch, torch.tensor(list(rows)))
        return self.reader().gather(draw), draw

    def training(self, runtime: Runtime | None = None, **optimizer: Any) -> Training:
        """A run about to begin, with other settings of its optimizer where given."""
        return self.training_of(self.objective(), runtime, **optimizer)

    def training_of(self, objective: Objective, runtime: Runtime | None = None, **optimizer: Any) -> Training:
        """The same around an objective that was changed."""
        recipe = replace(self.recipe, optimizer=replace(self.recipe.optimizer, **optimizer))
        return Training(objective, self.reader(), recipe, runtime or Runtime("float32"))

    def run_recipe(self, steps: int, save_every: int = 1000, **optimizer: Any) -> Recipe:
        """A recipe for a short run that logs every step and validates little."""
        watch = Watch(log_every=1, check_every=7, save_every=save_every, held_out_rows=64)
        chosen = replace(self.recipe.optimizer, **optimizer)
        return replace(self.recipe, optimizer=chosen, budget=Budget(steps=steps), watch=watch)


@functools.cache
def load_case(name: str) -> Case:
    """The case of an objective, prepared once a process; the samples are read once, which takes seconds for prose."""
    if not isinstance(source.load_sample, functools._lru_cache_wrapper):
        source.load_sample = functools.cache(source.load_sample)
    module = load_objective(name)
    recipe = replace(module.tiny(), precision="float32")
    prepared = prepare(recipe.data, None, False, Progress(False))
    return Case(name, module, resolve(recipe, prepared, torch.device("cpu"), "float32"), prepared)


def steps(training: Training, count: int) -> list[dict[str, float]]:
    """The metrics of the first steps of a run."""
    plan = make_plan(training.recipe.optimizer, 0, count)
    return [training.step(number, parts, plan) for number, parts in enumerate(training.read(0, count))]


def in_float64(objective: Objective) -> Objective:
    """The objective in float64, its views too, so that sums in another order agree to 1e-9."""

    def exact(views: Callable[[Batch, Draw], Batch], batch: Batch, draw: Draw) -> Batch:
        return {name: v.double() if v.is_floating_point() else v for name, v in views(batch, draw).items()}

    for part in objective.named().values() if isinstance(objective, Fused) else [objective]:
        part.views = functools.partial(exact, part.views)  # type: ignore[method-assign]
    return objective.double()


def differing(first: Any, second: Any, path: str = "") -> list[str]:
    """Places where two states, nests of dicts and lists with tensors in them, are not equal bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [place for key in first for place in differing(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [place for i, pair in pairs for place in differing(*pair, f"{path}/{i}")]
    return [] if first == second else [f"{path}: {first} != {second}"]


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a log without what the clock says."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]

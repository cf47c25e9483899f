"""What is looked at while a run goes on: held-out loss, health, a kNN score, and whoever else wants the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.encoder import evaluating
from selfsup.eval.doctor import step_of
from selfsup.eval.features import Features
from selfsup.eval.findings import Signs, diagnose
from selfsup.eval.health import some, vitals
from selfsup.eval.labelled import Labelled
from selfsup.objective import Objective, means, scalars
from selfsup.prepare import Store
from selfsup.progress import Progress
from selfsup.recipes import Recipe
from selfsup.resolve import batch_of
from selfsup.run import Run
from selfsup.runtime import Runtime

SHOWN = (5000, 2000)  # labelled samples of both parts for the kNN score during training


def validate(objective: Objective, reader: Reader, recipe: Recipe, runtime: Runtime, most: int) -> dict[str, float]:
    """Held-out loss and metrics in eval mode: a fixed draw (epoch -1), the first `most` rows evenly spread.

    Nothing where there is nothing to tell in them.
    """
    rows = np.unique(np.linspace(0, len(reader) - 1, min(most, len(reader))).astype(np.int64))
    rows = rows[: len(rows) // runtime.world * runtime.world]  # equal shares, because coupled rows are gathered
    size = min(batch_of(recipe), len(rows))
    order = [(-1, rows[i : i + size][runtime.rank :: runtime.world]) for i in range(0, len(rows), size)]
    total: dict[str, Tensor] = {}
    with evaluating(objective):
        for batch, draw in batches(reader, order, recipe.seed):
            with runtime.autocast():
                found = scalars(objective(runtime.move(batch), draw.to(runtime.device)))
            total = {name: total.get(name, torch.zeros_like(value)) + value for name, value in found.items()}
    summed = runtime.total(torch.stack(list(total.values())))
    named = dict(zip(total, summed.tolist(), strict=True))
    return means(named) if named["count"] else {}


class Checks:
    """The looks that are taken at a run; none of them changes it.

    Attributes:
        held_out: rows to validate on, if there are any.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        runtime: Runtime,
        held_out: Reader | None,
        store: Store,
        labelled: Labelled | None,
        progress: Progress,
    ) -> None:
        self.objective, self.recipe, self.runtime = objective, recipe, runtime
        self.held_out, self.progress = held_out, progress
        self._encoder = next(iter(objective.encoders().values()))
        self._samples = some(store, self._encoder) if runtime.main else None
        self._labelled = labelled.sample(*SHOWN) if labelled is not None and runtime.main else None
        self._named = set(objective.limits())  # what is out of range is said before the first step

    def log(self, run: Run, line: Mapping[str, Any]) -> None:
        """A line of metrics, to the run and to the tracker."""
        run.log("metrics.jsonl", line)
        self.runtime.track({f"train/{name}": value for name, value in line.items() if name != "step"}, line["step"])

    def _result(self, run: Run, line: dict[str, Any]) -> None:
        run.log("evals.jsonl", line)
        name = f"{line['task']}/{line['metric']}"
        self.runtime.track({name: line["mean"]}, line["step"])

    def look(self, run: Run, step: int, stop: int) -> None:
        """Held-out loss (all processes take part) and health, which is compared with what `doctor` knows."""
        common = {"representation": "run", "step": step}
        if self.held_out is not None:
            batch = batch_of(self.recipe)  # ten looks at a hundredth of all samples cost a thirtieth of the run
            rows = min(self.recipe.watch.held_out_rows, max(batch, stop * batch // 100))
            found = validate(self.objective, self.held_out, self.recipe, self.runtime, rows)
            if self.runtime.main and found:
                line = {"task": "pretext", **common, "split": "held-out", "metric": "loss", "mean": found["loss"]}
                self._result(run, {**line, "chance": found["trivial"], **found})
        if not self.runtime.main or self._samples is None:
            return
        signs = vitals(self._encoder, self._samples)
        if not signs:  # no numbers any more: the next step says so and stops
            return
        line = {"task": "health", **common, "split": "held-out", "metric": "effective rank"}
        self._result(run, {**line, "mean": signs["effective rank"], "chance": 1.0, **signs})
        metrics = run.lines("metrics.jsonl")
        signs["step size"] = step_of(self.objective, self.recipe, metrics)
        held_out = [line for line in run.lines("evals.jsonl") if line["task"] == "pretext"]
        seen = Signs(self.recipe, step / stop, metrics, held_out, signs, self.objective.limits())
        for finding in diagnose(seen):
            if finding.check not in self._named:
                self._named.add(finding.check)
                self.progress.say(f"doctor, step {step}: {finding.said}")

    def score(self, run: Run, step: int) -> None:
        """The kNN accuracy of the encoder as it is, on the main process."""
        if self._labelled is None:
            return
        features = Features.of(self._encoder, self._labelled)
        right = float((features.knn() == self._labelled.test_labels).double().mean())
        self._result(
            run,
            {
                "task": "online knn", "representation": "run", "data": self._labelled.name,
                "split": self._labelled.split, "step": step, "layer": "last", "labels": 1.0, "metric": "accuracy",
                "mean": right, "chance": self._labelled.chance, "seed": self.recipe.seed,
            },
        )  # fmt: skip
        self.progress.say(f"step {step}: kNN accuracy {right:.1%} on {self._labelled.name}")

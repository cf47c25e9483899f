"""One line of `evals.jsonl`."""

from __future__ import annotations

from typing import Any

from selfsup.run import Run

Result = dict[str, Any]


def result(
    run: Run, task: str, representation: str, metric: str, mean: float, chance: float, data: str, split: str
) -> Result:
    """A number with everything that says what it is.

    Args:
        run: that was judged.
        task: how, such as `knn`.
        representation: who answered: `run`, `untrained`, `raw`, `start`, or another name.
        metric: of the number.
        mean: the number itself.
        chance: what knowing nothing gets.
        data: name of the source.
        split: part of it.
    """
    return {
        "task": task, "representation": representation, "data": data, "split": split, "step": run.step,
        "layer": "last", "labels": 0, "metric": metric, "mean": mean, "chance": chance, "seed": run.recipe.seed,
    }  # fmt: skip

"""One line of `evals.jsonl`."""

from __future__ import annotations

from typing import Any

from selfsup.run import Run

Result = dict[str, Any]


def result(
    run: Run, task: str, representation: str, metric: str, mean: float, chance: float, data: str, split: str
) -> Result:
    """A number with everything that says what it is; arguments as those of `number`, and the run that was judged."""
    found = number(task, representation, metric, mean, chance, data, split)
    return {**found, "step": run.step, "seed": run.recipe.seed}


def number(task: str, representation: str, metric: str, mean: float, chance: float, data: str, split: str) -> Result:
    """A number of something without steps or a seed.

    Args:
        task: how, such as `knn`.
        representation: who answered: `run`, `untrained`, `raw`, `start`, or another name.
        metric: of the number.
        mean: the number itself.
        chance: what knowing nothing gets.
        data: name of the source.
        split: part of it.
    """
    return {
        "task": task, "representation": representation, "data": data, "split": split, "step": 0,
        "layer": "last", "labels": 0, "metric": metric, "mean": mean, "chance": chance, "seed": 0,
    }  # fmt: skip


def labels_seen(row: Result) -> str:
    """How many labels were seen: a share, or so many a class; nothing where none were."""
    if "per_class" in row:
        return f"{row['per_class']} a class"
    return f"{100 * row['labels']:g} %" if row["labels"] else ""

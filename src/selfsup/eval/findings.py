"""What can be wrong with a run, and how it shows: each finding names the likely cause and the flag to try.

Thresholds follow what collapsed and sound runs show (docs/decisions.md has the numbers they were set by).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selfsup.fields import flag_of
from selfsup.objective import Limit
from selfsup.recipes import Optimizer, Recipe

Lines = Sequence[Mapping[str, Any]]
EARLY = 0.25  # share of the run before which a loss that has not moved means nothing


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: which check found it.
        value: the number that it went by.
        said: what it means, the likely cause, and the flag to try.
    """

    check: str
    value: float
    said: str


def _median(lines: Lines, name: str) -> float:
    values = [line[name] for line in lines if name in line]
    return float(np.median(values)) if values else math.nan


@dataclass(frozen=True)
class Signs:
    """What the checks look at.

    Attributes:
        recipe: of the run.
        progress: share of the planned steps that are done.
        metrics: lines of `metrics.jsonl`.
        held_out: lines of the held-out loss.
        vitals: of the encoder and of the data; see `eval.health`.
        limits: within which the objective is known to work, by setting.
    """

    recipe: Recipe
    progress: float
    metrics: Lines
    held_out: Lines
    vitals: Mapping[str, float]
    limits: Mapping[str, Limit]

    def late(self, name: str) -> float:
        """Median of a metric over the last quarter of the lines; not a number where it was not logged."""
        return _median(self.metrics[-max(len(self.metrics) // 4, 1) :], name)

    def early(self, name: str) -> float:
        """The same over the first quarter."""
        return _median(self.metrics[: max(len(self.metrics) // 4, 1)], name)

    def share(self, loss: float) -> float:
        """A difference of losses as a share of the loss of knowing nothing."""
        return loss / max(abs(self.late("trivial")), 1e-12)


def _lower(signs: Signs) -> str:
    """The flags that lower the rate."""
    chosen = signs.recipe.optimizer
    matrices = ""
    if isinstance(chosen, Optimizer) and chosen.optimizer == "muon":
        matrices = f" --matrix-rate {chosen.matrix_rate / 10:g}"
    return f"--rate {chosen.rate / 10:g}{matrices}"


def _rate(signs: Signs) -> Finding | None:
    """Whether a step is out of proportion to the weights that it changes."""
    step = signs.vitals.get("step size", 0.01)
    if step > 1:
        said = f"a step at the peak rate moves the weights by {step:.1f} times their size: the rate is too high; try "
        return Finding("rate", step, said + _lower(signs))
    if step < 1e-6:
        said = f"a step at the peak rate moves the weights by {step:.0e} of their size: the rate is too low; try "
        return Finding("rate", step, f"{said}--rate {signs.recipe.optimizer.rate * 100:g}")
    return None


def _loss(signs: Signs) -> Finding | None:
    """Whether the loss is below that of knowing nothing, and if not, why."""
    gained = signs.share(signs.late("trivial") - signs.late("loss"))
    fallen = signs.share(signs.early("loss") - signs.late("loss"))
    if signs.progress < EARLY or not gained < 0.03 or fallen > 0.02:
        return None
    said = f"the loss, {signs.late('loss'):.3f}, is not below that of knowing nothing, {signs.late('trivial'):.3f}"
    if gained < -0.03:
        return Finding("loss", gained, f"{said}, but above: the weights have run off; try {_lower(signs)}")
    why = "nothing is learned: too few steps, a rate too low or too high, or nothing to learn in --data"
    return Finding("loss", gained, f"{said}: {why}")


def _collapse(signs: Signs) -> Finding | None:
    """Whether every input gets the same vector, or the vectors fill a line."""
    rank, distinct = signs.vitals.get("effective rank", math.inf), signs.vitals.get("distinct", 1.0)
    if distinct < 0.01:
        return Finding(
            "collapse", distinct,
            f"every input gets nearly the same vector (they differ by {distinct:.2%} of their length): collapse; "
            "try a lower --rate or a larger --batch, and look at the data",
        )  # fmt: skip
    if signs.progress >= EARLY and rank < 4 and signs.vitals["width"] >= 16:
        return Finding(
            "effective rank", rank,
            f"the vectors fill {rank:.1f} of {signs.vitals['width']:.0f} directions: they are collapsing; "
            "try a lower --rate, a larger --batch, or stronger views",
        )  # fmt: skip
    return None


def out_of_range(recipe: Recipe, limits: Mapping[str, Limit]) -> list[Finding]:
    """Settings outside of what the method is known to work with."""
    settings = {**asdict(recipe.optimizer), **asdict(recipe.config)}
    found = []
    for name, limit in limits.items():
        value = settings[name]
        if value is not None and not limit.low <= value <= limit.high:
            near = limit.low if value < limit.low else limit.high
            reach = f"{limit.low:g} to {limit.high:g}" if math.isfinite(limit.high) else f"{limit.low:g} or more"
            said = f"{flag_of(name)} {value:g}: {limit.why}; known to work is {reach}, try {near:g}"
            found.append(Finding(name, float(value), said))
    return found


def _limits(signs: Signs) -> list[Finding]:
    return out_of_range(signs.recipe, signs.limits)


def _gradient(signs: Signs) -> Finding | None:
    """Whether a gradient reaches the weights."""
    norm = signs.late("grad_norm")
    if norm < 1e-6:
        return Finding(
            "gradient", norm,
            f"the gradient has all but vanished (norm {norm:.1e}): the task is solved without looking, or saturated; "
            "look at the views and at the data",
        )  # fmt: skip
    chosen = signs.recipe.optimizer
    clip = chosen.clip if isinstance(chosen, Optimizer) else 0
    if clip and norm > 1000 * clip:  # a sound run of CoSENT, whose loss is made by its worst pairs, has a hundred
        return Finding(
            "gradient", norm,
            f"the gradient (norm {norm:.3g}) is cut to {clip:g} in every step: the rate is too high or the loss badly "
            f"scaled; try --rate {signs.recipe.optimizer.rate / 10:g}",
        )  # fmt: skip
    return None


def _entropy(signs: Signs) -> float:
    """Of a teacher, which may be a part of what is fused; not a number where there is none."""
    names = (name for name in (signs.metrics[-1] if signs.metrics else ()) if name.split(".")[-1] == "teacher_entropy")
    return signs.late(next(names, "teacher_entropy"))


def _teacher(signs: Signs) -> Finding | None:
    """Whether a teacher says something, as a share of the entropy of saying nothing."""
    entropy = _entropy(signs)
    if entropy < 0.02:
        why = "the teacher always names one prototype; try a higher teacher temperature, or a faster center"
        return Finding("teacher entropy", entropy, why)
    if signs.progress >= EARLY and entropy > 0.98:
        why = "the teacher says the same of everything; try a lower teacher temperature, or a slower teacher"
        return Finding("teacher entropy", entropy, why)
    return None


def _waiting(signs: Signs) -> Finding | None:
    """Whether the network waits for data."""
    wait = signs.late("wait")
    if not wait > 0.2:
        return None
    workers = (signs.recipe.data.workers or 0) + 2
    return Finding(
        "data wait", wait,
        f"{wait:.0%} of the time went by waiting for data; try --workers {workers}, for pictures a larger --cache-gb",
    )  # fmt: skip


def _overfit(signs: Signs) -> Finding | None:
    """Whether the held-out loss has risen while training went on."""
    losses = [(line["step"], line["mean"]) for line in signs.held_out]
    if len(losses) < 4 or not math.isnan(_entropy(signs)):  # a teacher moves the goal all the time
        return None
    step, best = min(losses, key=lambda pair: pair[1])
    trivial = signs.held_out[-1]["chance"]
    if trivial - best < 0.1 * trivial or losses[-1][1] < best + 0.1 * (trivial - best):
        return None
    return Finding(
        "held-out loss", losses[-1][1],
        f"the held-out loss was best at step {step} ({best:.3f}) and is now {losses[-1][1]:.3f}: the network learns "
        "the examples by heart; try fewer steps, a smaller --size, or more data",
    )  # fmt: skip


def _data(signs: Signs) -> list[Finding]:
    """Whether there is anything in the data to learn from."""
    found = []
    contrast, copies = signs.vitals.get("contrast", 1.0), signs.vitals.get("copies", 0.0)
    if contrast < 0.01:
        why = "the pictures are all but constant: there is nothing to tell them apart by; look at --data"
        found.append(Finding("contrast", contrast, why))
    elif copies > 0.3:
        why = (
            f"{copies:.0%} of the pictures are copies of others, and count as different ones; take copies out of --data"
        )
        found.append(Finding("copies", copies, why))
    common = signs.vitals.get("commonest caption", 0.0)
    if common > 0.3:
        why = (
            f"{common:.0%} of all captions are the same one, which tells no picture from another; look at the captions "
            "in --data, or name others with --columns text=NAME"
        )
        found.append(Finding("captions", common, why))
    order = signs.vitals.get("word order", 2.0)
    if order < 1.1:
        why = "words follow each other as if shuffled: there is no order to learn; look at --data"
        found.append(Finding("word order", order, why))
    return found


CHECKS: tuple[Callable[[Signs], Finding | list[Finding] | None], ...] = (
    _data, _limits, _rate, _loss, _collapse, _gradient, _teacher, _overfit, _waiting,
)  # fmt: skip


def diagnose(signs: Signs) -> list[Finding]:
    """All findings, causes before symptoms."""
    found: list[Finding] = []
    for check in CHECKS:
        one = check(signs)
        found += one if isinstance(one, list) else [one] if one else []
    return found

"""Whether a run was worth it, as one sentence that follows from intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

ERROR = 0.05  # that any of the intervals of a card misses the truth
NAMES = {
    "raw": "the raw input",
    "untrained": "the untrained network",
    "start": "the start",
    "scratch": "training from scratch",
    "bm25": "BM25",
    "tf-idf": "TF-IDF",
    "overlap": "the overlap of words",
    "words": "the mean of word vectors",
}


@dataclass(frozen=True)
class Gain:
    """What the run has over the best alternative, with an interval; more is better.

    Attributes:
        where: what was compared, such as `at 1 % of the labels`.
        over: the best alternative.
        mean: the difference.
        half: half the width of the interval.
        unit: of the difference.
    """

    where: str
    over: str
    mean: float
    half: float
    unit: str = "points"

    @property
    def kind(self) -> Literal["gain", "loss", "none"]:
        """What the interval allows to say."""
        if self.mean - self.half > 0:
            return "gain"
        return "loss" if self.mean + self.half < 0 else "none"

    def __str__(self) -> str:
        digits = 1 if self.unit == "points" else 3
        amount = f"{self.mean:+.{digits}f} ± {self.half:.{digits}f} {self.unit}"
        other = NAMES.get(self.over, self.over)
        said = {
            "gain": f"{amount} {self.where}, over {other}",
            "loss": f"{amount} {self.where}: {other} is better",
            "none": f"nothing gained {self.where} ({amount} against {other})",
        }
        return said[self.kind]


def interval(run: Tensor, other: Tensor, error: float) -> tuple[float, float]:
    """Mean difference of two scores and half the width of its interval, from answers to the same questions.

    Two things are uncertain, and add as squares: which test rows there are (the paired differences of all M rows) and
    which labels were drawn (the differences of the draws, by Student's t, because there are few).

    Args:
        run: (draws, M) bool, whether each answer was right, or how good it was, from 0 to 1.
        other: (draws, M) the same for the alternative, on the same draws.
        error: probability that the interval misses.
    """
    difference = run.double() - other.double()  # (draws, M)
    draws, rows = difference.shape
    tail = 1 - error / 2
    by_row, by_draw = difference.mean(0), difference.mean(1)
    half = stats.norm.ppf(tail) * float(by_row.std(correction=1)) / math.sqrt(rows) if rows > 1 else 1.0
    if draws > 1:
        spread = stats.t.ppf(tail, draws - 1) * float(by_draw.std(correction=1)) / math.sqrt(draws)
        half = math.hypot(half, spread)
    return float(difference.mean()), half


def gains(answers: Mapping[str, Mapping[str, Tensor]], error: float = ERROR) -> list[Gain]:
    """The run against the best alternative, for each comparison.

    The intervals of all comparisons hold together with probability 1 - `error` (Bonferroni).

    Args:
        answers: what was compared -> representation -> (draws, M), see `interval`; `run` is among the representations.
        error: probability that any of them misses.
    """
    found = []
    for where, of in answers.items():
        others = {name: right for name, right in of.items() if name != "run"}
        over = max(others, key=lambda name: float(others[name].double().mean()))
        mean, half = interval(of["run"], others[over], error / (len(answers) * len(others)))
        found.append(Gain(where, over, 100 * mean, 100 * half))
    return found


def sentence(found: Sequence[Gain]) -> tuple[bool, str]:
    """Whether it was worth it, and the sentence that says so: `worth it: +21 points at 1 % ...; nothing gained ...`."""
    worth = any(gain.kind == "gain" for gain in found)
    return worth, f"{'worth it' if worth else 'not worth it'}: {'; '.join(map(str, found))}"


def always(labels: Tensor, test_labels: Tensor, draws: int) -> Tensor:
    """(draws, M) bool: what naming the commonest training class each time gets right."""
    return (test_labels == torch.bincount(labels).argmax()).expand(draws, -1)

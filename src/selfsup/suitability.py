"""Whether an objective suits data, from how often its question is answered on held-out rows; and weights from that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Fixed before any data were looked at (docs/decisions.md).
POOR, GOOD = 0.1, 0.4  # gains below which an objective does not suit, and from which it does
DOUBT = 0.5  # share of the loss of knowing nothing from which a row is in doubt
LEAST = 0.1  # smallest weight
EASY = 0.99  # share of right answers that is too good to be true ...
FEW = 0.05  # ... where guessing gets at least this

Kind = Literal["suits", "suits in part", "does not suit"]


@dataclass(frozen=True)
class Question:
    """A metric that is the share of pretext questions answered rightly, on held-out rows.

    Attributes:
        name: of the metric.
        right: the share.
        half: half the width of its interval at 95 %.
        guess: what guessing gets.
        learned: the share on the rows trained on, at the end of training.
    """

    name: str
    right: float
    half: float
    guess: float
    learned: float

    @property
    def gain(self) -> float:
        """1 for always right, 0 for no better than guessing."""
        return (self.right - self.guess) / (1 - self.guess)

    @property
    def gain_learned(self) -> float:
        """The same on the rows trained on."""
        return (self.learned - self.guess) / (1 - self.guess)


@dataclass(frozen=True)
class Verdict:
    """What an audit says.

    Attributes:
        kind: in three words.
        said: in a sentence.
        warning: another, where answers are suspiciously good, or where too little was learned to tell; may be empty.
    """

    kind: Kind
    said: str
    warning: str


@dataclass(frozen=True)
class Told:
    """A loss that asks no question which could be guessed at, on held-out rows.

    Attributes:
        name: of the loss.
        loss: its mean.
        trivial: the loss of knowing nothing.
        learned: its mean on the rows trained on, at the end of training.
    """

    name: str
    loss: float
    trivial: float
    learned: float

    @property
    def gain(self) -> float:
        """1 for no loss, 0 for that of knowing nothing."""
        return 1 - self.loss / self.trivial

    @property
    def gain_learned(self) -> float:
        """The same on the rows trained on."""
        return 1 - self.learned / self.trivial


def judge(name: str, asked: Sequence[Question | Told], doubt: float) -> Verdict:
    """The verdict of an audit; the worst of what was asked decides.

    Args:
        name: of the objective.
        asked: its questions, and the losses of what asks none.
        doubt: share of the rows that are in doubt.
    """
    worst = min(asked, key=lambda one: one.gain)
    gain = worst.gain
    if isinstance(worst, Question):
        right = f"{100 * worst.right:.1f}" + (f" ± {100 * worst.half:.1f}" if math.isfinite(worst.half) else "")
        found = f"{worst.name} {right} % on held-out rows, guessing gets {100 * worst.guess:.3g} %"
    else:
        found = f"a {worst.name} of {worst.loss:.4g} on held-out rows, knowing nothing has {worst.trivial:.4g}"
    questions = [one for one in asked if isinstance(one, Question)]
    kind: Kind = "does not suit" if gain < POOR else "suits in part" if gain < GOOD else "suits"
    verb = {"suits": "suits these data", "suits in part": "suits these data in part"}.get(kind, f"{kind} these data")
    easy = [question for question in questions if question.right >= EASY and question.guess >= FEW]
    warnings = [
        f"{question.name} {100 * question.right:.1f} % is suspiciously easy: look for a shortcut, such as a border, a "
        "watermark or a torn end"
        for question in easy[:1]
    ]
    if kind == "does not suit" and worst.gain_learned < POOR:
        warnings.append(
            f"{worst.name} was not learned on the rows trained on either: there is nothing to learn, or the audit was "
            "too short; give it as many --steps or --minutes as a run before you believe it"
        )
    return Verdict(kind, f"{name} {verb}: {found}; {100 * doubt:.0f} % of the rows are in doubt", "; ".join(warnings))


def in_doubt(difficulty: np.ndarray) -> np.ndarray:
    """(N,) bool: rows whose held-out loss is half of that of knowing nothing, or more.

    For the cross-entropy of n answers that is to be as unsure as between the square root of n: of four turns, two.
    """
    return difficulty >= DOUBT


def weights_of(difficulty: np.ndarray) -> np.ndarray:
    """(N,) weights: 1 where a row is not in doubt, falling to `LEAST` where nothing is known of it."""
    return np.clip((1 - difficulty) / (1 - DOUBT), LEAST, 1.0)

"""What an audit found: the answers of all folds together, by question, by label and by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from selfsup.folds import Scores
from selfsup.suitability import Question, Told, in_doubt, judge, weights_of

INTERVAL = 1.96  # standard errors in half of an interval of 95 %


def together(parts: Sequence[Scores]) -> Scores:
    """The scores of all folds, their rows in order; each fold counts by its rows."""
    rows = np.concatenate([part.rows for part in parts])
    order, share = np.argsort(rows), [len(part.rows) / len(rows) for part in parts]
    arrays = {
        name: np.concatenate([vars(part)[name] for part in parts])[order]
        for name in ("rows", "loss", "difficulty", "correct", "answers")
    }
    metrics = {
        name: (
            sum(s * part.metrics[name][0] for s, part in zip(share, parts, strict=True)),
            sum(s**2 * part.metrics[name][1] for s, part in zip(share, parts, strict=True)),
        )
        for name in parts[0].metrics
    }
    guesses, learned = (
        {name: sum(s * one[name] for s, one in zip(share, of_parts, strict=True)) for name in of_parts[0]}
        for of_parts in ([part.guesses for part in parts], [part.learned for part in parts])
    )
    return Scores(**arrays, metrics=metrics, guesses=guesses, questions=parts[0].questions, learned=learned)


def confusions(answers: np.ndarray, questions: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The commonest wrong answers (N, Q, Q): what was asked, what was answered, and how often of all times asked."""
    count = answers.sum(0)
    share = count / np.maximum(count.sum(1, keepdims=True), 1)
    wrong = [(share[i, j], i, j) for i, j in np.argwhere(share) if i != j]
    return [
        {"asked": questions[i], "answered": questions[j], "share": float(value)}
        for value, i, j in sorted(wrong, key=lambda one: -one[0])[:most]
    ]


def _mean(values: np.ndarray) -> float | None:
    """A mean, or nothing where nobody said."""
    return float(values.mean()) if np.isfinite(values).all() else None


def by_label(scores: Scores, labels: np.ndarray, classes: Sequence[str]) -> list[dict]:
    """The rows of each label (N,), the least answerable label first; -1 is none."""
    found = []
    for number, name in enumerate(classes):
        some = labels == number
        if some.any():
            found.append(
                {
                    "label": name, "rows": int(some.sum()), "difficulty": float(scores.difficulty[some].mean()),
                    "in_doubt": float(in_doubt(scores.difficulty[some]).mean()),
                    "all_right": _mean(scores.correct[some]),
                    "confusions": confusions(scores.answers[some], scores.questions, 2),
                }
            )  # fmt: skip
    return sorted(found, key=lambda line: -line["difficulty"])


def losses_of(scores: Scores, asked: Sequence[Question]) -> list[Told]:
    """The losses of an objective, or of those parts of a fused one, that ask no question with answers to guess at."""
    starts = [name.removesuffix("loss") for name in scores.metrics if name.endswith(".loss")] or [""]
    return [
        Told(
            f"{start}loss",
            scores.metrics[f"{start}loss"][0],
            scores.metrics[f"{start}trivial"][0],
            scores.learned[f"{start}loss"],
        )
        for start in starts
        if not any(one.name.startswith(start) for one in asked)
    ]


def record_of(name: str, scores: Scores, labels: np.ndarray | None, classes: Sequence[str]) -> dict[str, Any]:
    """What `audit.json` says of the answers.

    Args:
        name: of the objective.
        scores: of all rows.
        labels: (N,) of all rows, -1 for none; None where the data have none.
        classes: their names.
    """
    half = {key: INTERVAL * math.sqrt(variance) for key, (_, variance) in scores.metrics.items()}
    asked = [
        Question(key, scores.metrics[key][0], half[key], guess, scores.learned[key])
        for key, guess in scores.guesses.items()
        if guess < 1
    ]
    loss, trivial = (scores.metrics[key][0] for key in ("loss", "trivial"))
    doubt = float(in_doubt(scores.difficulty).mean())
    verdict = judge(name, [*asked, *losses_of(scores, asked)], doubt)
    return {
        "verdict": verdict.kind,
        "text": verdict.said,
        "warning": verdict.warning,
        "questions": [
            {
                "name": one.name, "right": one.right, "half": one.half if math.isfinite(one.half) else None,
                "learned": one.learned, "guessing": one.guess, "gain": one.gain,
            }
            for one in asked
        ],
        "loss": loss,
        "learned": scores.learned["loss"],
        "trivial": trivial,
        "in_doubt": doubt,
        "all_right": _mean(scores.correct),
        "confusions": confusions(scores.answers, scores.questions, 6),
        "labels": [] if labels is None else by_label(scores, labels, classes),
    }  # fmt: skip


def table_of(
    scores: Scores, fold_of: np.ndarray, names: Sequence[str] | None, labels: np.ndarray | None, classes: Sequence[str]
) -> pa.Table:
    """A line for every row: its fold, loss, difficulty, how often all of it was right, and its weight."""
    cells: dict[str, Any] = {
        "row": scores.rows,
        "fold": fold_of,
        "loss": scores.loss.astype(np.float32),
        "difficulty": scores.difficulty.astype(np.float32),
    }
    if np.isfinite(scores.correct).all():
        cells["correct"] = scores.correct.astype(np.float32)
    cells["weight"] = weights_of(scores.difficulty).astype(np.float32)
    if names is not None:
        cells["name"] = list(names)
    if labels is not None:
        cells["label"] = [classes[label] if label >= 0 else None for label in labels.tolist()]
    return pa.table(cells)

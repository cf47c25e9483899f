"""Cross-fitting: an objective trained on some rows, and what it answers on the others."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from selfsup.data.captions import CaptionStore
from selfsup.data.loader import batches
from selfsup.data.order import permutation
from selfsup.data.pair_store import PairStore
from selfsup.data.pixels import PixelStore
from selfsup.data.reader import Reader
from selfsup.data.selection import Selection
from selfsup.encoder import evaluating
from selfsup.loop import Training
from selfsup.objective import Objective, means, scalars
from selfsup.planning import count_steps, make_plan
from selfsup.prepare import Store
from selfsup.progress import Progress
from selfsup.recipes import Recipe
from selfsup.resolve import batch_of
from selfsup.runtime import Runtime, Stopped

STRETCHES = 8  # of text, at most, that a fold gets
STRETCH = 32  # rows in one, at least
APART = 8  # rows between a stretch that is asked and one that is trained on: short sentences are in so many segments
GUESS = "guess "  # before the name of a metric
END = 0.1  # share of the steps that tells what was learned of the rows trained on


def contents(store: Store, rows: int) -> np.ndarray | None:
    """(N,) integers, equal for rows with equal pictures or equal queries; None where rows are pieces of text."""
    pictures = store.pictures if isinstance(store, CaptionStore) else store
    if isinstance(pictures, PixelStore):
        found = pictures.digests[pictures.rows]
    elif isinstance(pictures, PairStore):
        found = pictures.identity[pictures.rows[:, 0]]
    else:
        return None
    return found if len(found) == rows else None  # else a reader of the user's own counts otherwise


def cut(content: np.ndarray | None, rows: int, folds: int) -> np.ndarray:
    """(N,) the fold of each row: equal ones in one, or stretches of text dealt out in turn."""
    if content is not None:
        return np.unique(content, return_inverse=True)[1] % folds
    count = folds * max(min(rows // (folds * STRETCH), STRETCHES), 1)
    return np.arange(rows) * count // rows % folds


def others(fold_of: np.ndarray, fold: int, apart: bool) -> np.ndarray:
    """Rows to train on for a fold; `apart` from its rows by some, because pieces of text overlap their neighbors.

    By at most an eighth of a stretch at either end: little text has few rows to spare.
    """
    held = fold_of == fold
    if apart:
        stretches = np.flatnonzero(np.diff(fold_of, prepend=-1))
        shortest = int(np.diff(stretches, append=len(fold_of)).min())
        for _ in range(min(APART, max(shortest // 8, 1))):
            held = held | np.append(held[1:], False) | np.append(False, held[:-1])
    return np.flatnonzero(~held)


@dataclass(frozen=True)
class Scores:
    """What was answered on held-out rows.

    Attributes:
        rows: (N,) of the reader.
        loss: (N,) mean over draws.
        difficulty: (N,) the same as a share of the loss of knowing nothing.
        correct: (N,) share of the draws in which all of a row was right; not a number where nobody says.
        answers: (N, Q, Q) how often each of the row's questions got each answer; Q is 0 where there are none.
        metrics: name -> mean over rows, and the variance of that mean.
        guesses: name -> what guessing gets.
        questions: Q names; see `Objective.questions`.
        learned: name -> mean over the last steps of training, on the rows of these; see `trained`.
    """

    rows: np.ndarray
    loss: np.ndarray
    difficulty: np.ndarray
    correct: np.ndarray
    answers: np.ndarray
    metrics: Mapping[str, tuple[float, float]]
    guesses: Mapping[str, float]
    questions: Sequence[str]
    learned: Mapping[str, float] = field(default_factory=dict)


def trained(
    objective: Objective, reader: Selection, recipe: Recipe, runtime: Runtime, steps: int | None, progress: Progress,
    caught: list[int],
) -> tuple[int, dict[str, float]]:  # fmt: skip
    """Train an objective on some rows.

    Returns:
        The number of steps, which a budget in minutes finds out first, and the metrics of the last of them.

    Raises:
        Stopped: a signal came.
    """
    training = Training(objective, reader, recipe, runtime)
    steps = steps or count_steps(recipe, training, runtime, progress)
    plan = make_plan(recipe.optimizer, 0, steps)
    waited, began = 0.0, time.perf_counter()
    asked, last = began, deque[dict[str, float]](maxlen=max(int(END * steps), 1))
    for step, parts in enumerate(training.read(0, steps)):
        waited += time.perf_counter() - asked
        last.append(training.step(step, parts, plan))
        stop_if(caught)
        asked = time.perf_counter()
        pace = (asked - began) / (step + 1)
        progress.step(step + 1, steps, last[-1]["loss"], batch_of(recipe) / pace, waited / (asked - began), pace)
    return steps, {name: float(np.mean([line[name] for line in last])) for name in last[-1]}


def stop_if(caught: list[int]) -> None:
    """Raise `Stopped` if there was a signal."""
    if caught:
        raise Stopped("stopped; the same command goes on behind the last whole fold", caught[0])


class Tally:
    """Sums over batches and draws, for `Scores`."""

    def __init__(self, rows: np.ndarray, questions: Sequence[str]) -> None:
        self.questions = questions
        self.rows = rows
        self.sums = {name: np.zeros(len(rows)) for name in ("loss", "difficulty", "correct")}
        self.answers = np.zeros((len(rows), len(questions), len(questions)), np.int32)
        self.seen: list[dict[str, float]] = []  # of each batch of this draw: its metrics
        self.draws: list[dict[str, tuple[float, float]]] = []

    def add(self, places: np.ndarray, losses: Mapping[str, Tensor], guesses: Mapping[str, float]) -> None:
        """What was answered on a batch: the rows at some places."""

        def of_rows(name: str, default: Tensor) -> np.ndarray:
            return losses.get(name, default).double().cpu().numpy()

        loss = losses["example_loss"]
        self.sums["loss"][places] += of_rows("example_loss", loss)
        self.sums["difficulty"][places] += of_rows("example_difficulty", loss / losses["trivial"])
        self.sums["correct"][places] += of_rows("example_correct", torch.full_like(loss, math.nan))
        if self.answers.shape[1]:
            told = losses["example_answer"].cpu().numpy()  # (B, Q)
            self.answers[places[:, None], np.arange(told.shape[1]), told] += 1
        sums = {name: float(value) for name, value in scalars(dict(losses)).items()}
        guessed = {GUESS + name: value for name, value in guesses.items()}
        self.seen.append({**means(sums), **guessed, "count": sums["count"]})

    def end_draw(self) -> None:
        """Means over the batches of this draw, and the variances of these means."""
        count = np.array([line["count"] for line in self.seen])
        share = count / max(count.sum(), 1e-12)
        found = {}
        for name in self.seen[0].keys() - {"count"}:
            values = np.array([line[name] for line in self.seen])
            mean = float(share @ values)
            spread = float(share**2 @ (values - mean) ** 2) * len(values) / max(len(values) - 1, 1)
            found[name] = mean, spread if len(values) > 1 else math.nan
        self.draws.append(found)
        self.seen = []

    def scores(self) -> Scores:
        """Means over the draws; these see the same rows, so their variances are averaged, not divided."""
        count = len(self.draws)
        metrics = {
            name: (float(np.mean([d[name][0] for d in self.draws])), float(np.mean([d[name][1] for d in self.draws])))
            for name in sorted(self.draws[0])
        }
        guessed = [name for name in metrics if name.startswith(GUESS)]
        guesses = {name.removeprefix(GUESS): metrics.pop(name)[0] for name in guessed}
        loss, difficulty, correct = (self.sums[name] / count for name in ("loss", "difficulty", "correct"))
        return Scores(self.rows, loss, difficulty, correct, self.answers, metrics, guesses, self.questions)


def scored(
    objective: Objective, reader: Reader, rows: np.ndarray, recipe: Recipe, runtime: Runtime, draws: int,
    progress: Progress, caught: list[int],
) -> Scores:  # fmt: skip
    """What an objective answers on rows of a reader, in eval mode, under some draws of its own (epochs -1, -2, ...).

    Batches are as large as in training, because some objectives compare the rows of one, and others in every draw.
    """
    tally, done, workers = Tally(rows, objective.questions), 0, recipe.data.workers or 0
    with evaluating(objective):
        for number in range(draws):
            order = permutation(len(rows), recipe.seed, number)
            places = np.array_split(order, math.ceil(len(rows) / batch_of(recipe)))
            read = batches(reader, [(-1 - number, rows[some]) for some in places], recipe.seed, workers)
            for some, (batch, draw) in zip(places, read, strict=True):
                with runtime.autocast():
                    losses = objective(runtime.move(batch), draw.to(runtime.device))
                tally.add(some, losses, objective.guessing(len(some)))
                stop_if(caught)
                done += len(some)
                progress.part("asked", done, draws * len(rows))
            tally.end_draw()
    return tally.scores()

"""The examination of a run: its vital signs, and what they say."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from selfsup.data.captions import CaptionStore
from selfsup.data.facts import of_pictures
from selfsup.data.pixels import PixelStore
from selfsup.errors import UserError
from selfsup.eval.findings import Finding, Lines, Signs, diagnose
from selfsup.eval.health import some, view_vitals, vitals, word_order
from selfsup.eval.other_view import two_views
from selfsup.image_encoder import ImageEncoder
from selfsup.objective import Objective
from selfsup.optim import make_optimizers, step_size
from selfsup.prepare import Store, prepare
from selfsup.progress import Progress
from selfsup.recipes import Optimizer, Recipe
from selfsup.run import Run


@dataclass(frozen=True)
class Examined:
    """Vital signs and findings of a run."""

    vitals: dict[str, float]
    findings: list[Finding]


def growth(objective: Objective, untrained: Objective) -> float:
    """How many times the norm of the trainable matrices has grown since step 0."""
    before = dict(untrained.named_parameters())
    pairs = [(w, before[name]) for name, w in objective.named_parameters() if w.requires_grad and w.ndim > 1]
    now, then = (sum(float(pair[i].detach().double().square().sum()) for pair in pairs) for i in (0, 1))
    return math.sqrt(now / max(then, 1e-30))


def step_of(objective: Objective, recipe: Recipe, metrics: Lines) -> float:
    """How far a step at the peak rate moves the matrices of an objective, as a share of their norm; nan if unknown."""
    chosen = recipe.optimizer
    if not isinstance(chosen, Optimizer):
        return math.nan
    optimizers = make_optimizers(
        objective, chosen.optimizer, chosen.rate, chosen.matrix_rate, chosen.decay, chosen.momentum, chosen.betas
    )
    return step_size(optimizers, metrics[-1]["grad_norm"] if metrics else 0.0)


def data_vitals(store: Store, run: Run) -> dict[str, float]:
    """Signs of the data itself."""
    if isinstance(store, CaptionStore):
        share = np.bincount(store.numbers).max() / len(store.numbers)
        return {**data_vitals(store.pictures, run), "commonest caption": float(share)}
    if isinstance(store, PixelStore):
        facts, digests = of_pictures(run.facts), store.digests[store.rows]
        assert facts is not None
        return {"contrast": max(facts.sd), "copies": 1 - len(np.unique(digests)) / len(digests)}
    order = word_order(store.text_end(1_000_000).decode("utf-8", "replace"))
    return {} if order is None else {"word order": order}


def examine(folder: str | os.PathLike, quiet: bool = False) -> Examined:
    """Look at a run, finished or not.

    Args:
        folder: the run.
        quiet: no progress on the terminal.

    Raises:
        UserError: no such run, or nothing to look at yet.
    """
    run = Run(folder)
    metrics = run.lines("metrics.jsonl")
    if not run.step or not metrics:
        raise UserError(f"{folder} has no checkpoint yet; go on with selfsup resume {folder}")
    objective, untrained = run.objective(), run.untrained()
    encoder = next(iter(objective.encoders().values()))
    progress = Progress(not quiet)
    signs = {"growth": growth(objective, untrained), "step size": step_of(untrained, run.recipe, metrics)}
    try:
        prepared = prepare(run.data, None, False, progress)
    except UserError as error:
        progress.say(f"the data cannot be opened any more ({error}): only the log and the weights are looked at")
    else:
        shown = prepared.held_out or prepared.train
        signs |= {**vitals(encoder, some(shown, encoder, 1000)), **data_vitals(prepared.train, run)}
        pictures = shown.pictures if isinstance(shown, CaptionStore) else shown
        if isinstance(encoder, ImageEncoder) and isinstance(pictures, PixelStore) and len(pictures) > 1:
            signs |= view_vitals(encoder, two_views(pictures, encoder.about.size, run.recipe.seed))
    held_out = [line for line in run.lines("evals.jsonl") if line["task"] == "pretext"]
    done = run.step / run.record["plan"]["stop"]
    seen = Signs(run.recipe, done, metrics, held_out, signs, objective.limits())
    shown_signs = {"loss": seen.late("loss"), "of knowing nothing": seen.late("trivial"),
                   "gradient norm": seen.late("grad_norm"), "data wait": seen.late("wait"), **signs}  # fmt: skip
    return Examined(shown_signs, diagnose(seen))

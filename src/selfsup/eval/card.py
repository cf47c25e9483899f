"""Whether a run was worth it: its scores beside those of the obvious alternatives."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from selfsup.data.facts import ImageFacts
from selfsup.data.tokens import TokenStore
from selfsup.errors import UserError
from selfsup.eval.language import evaluate_language
from selfsup.eval.pictures import evaluate_pictures, open_labelled
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData
from selfsup.run import Run


def evaluate(
    folder: str | os.PathLike, data: str | None = None, columns: tuple[str, ...] = (), quiet: bool = False
) -> list[dict[str, Any]]:
    """Score a run, append the results to its `evals.jsonl`, and return them.

    Args:
        folder: the run.
        data: labelled pictures, or text that was held out; the run's own source when not given.
        columns: `meaning=name` pairs for `data`.
        quiet: no progress on the terminal.

    Raises:
        UserError: no such run, no model in it yet, or no labels in the data.
    """
    run = Run(folder)
    if not run.step:
        raise UserError(f"{folder} has no checkpoint yet; go on with selfsup resume {folder}")
    progress, recipe, facts = Progress(not quiet), run.recipe, run.facts
    settings = recipe.data if data is None else replace(recipe.data, source=data, columns=columns)
    if isinstance(settings, ImageData):
        assert isinstance(facts, ImageFacts)
        results = evaluate_pictures(run, open_labelled(settings, facts.resolution, progress), progress)
    else:
        results = _language(run, settings, data, progress)
    for line in results:
        run.log("evals.jsonl", line)
    return results


def _language(run: Run, settings: TextData, data: str | None, progress: Progress) -> list[dict[str, Any]]:
    own = prepare(run.recipe.data, None, False, progress)
    assert isinstance(own.train, TokenStore)
    held_out, name = own.held_out, run.recipe.data.source
    if data is not None:  # all of it is held out, read with the run's own tokenizer
        other = prepare(replace(settings, tokenizer=str(run.folder / "tokenizer")), None, False, progress)
        assert isinstance(other.train, TokenStore)
        held_out, name = other.train.cut(0, len(other.train)), data
    if not isinstance(held_out, TokenStore):
        raise UserError(f"{name} has no held-out text; name some with --data")
    return evaluate_language(run, own.train, held_out, name, progress)

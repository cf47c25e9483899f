"""Whether a run was worth it: its scores beside those of the obvious alternatives."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from selfsup.data.facts import ImageFacts
from selfsup.data.source import GIVEN, Data, open_source
from selfsup.data.store import cache_root
from selfsup.data.tokens import TokenStore, open_tokens
from selfsup.errors import UserError
from selfsup.eval.language import evaluate_language
from selfsup.eval.pictures import evaluate_pictures, open_labelled
from selfsup.prepare import Prepared, columns_of, prepare
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData
from selfsup.run import Run


def evaluate(
    folder: str | os.PathLike, data: Data | None = None, columns: tuple[str, ...] = (), quiet: bool = False
) -> list[dict[str, Any]]:
    """Score a run, append the results to its `evals.jsonl`, and return them.

    Args:
        folder: the run.
        data: labelled pictures, or text that was held out; the run's own source when not given.
        columns: `meaning=name` pairs for the data.
        quiet: no progress on the terminal.

    Raises:
        UserError: no such run, no model in it yet, or no labels in the data.
    """
    run = Run(folder)
    if not run.step:
        raise UserError(f"{folder} has no checkpoint yet; go on with selfsup resume {folder}")
    progress, recipe, facts = Progress(not quiet), run.recipe, run.facts
    own = replace(recipe.data, columns=columns or recipe.data.columns)
    name = own.source if data is None else str(data) if isinstance(data, str | os.PathLike) else GIVEN
    settings = own if data is None else replace(own, source=name, columns=columns)
    if isinstance(settings, ImageData):
        assert isinstance(facts, ImageFacts)
        labelled = open_labelled(settings, data, facts.resolution, progress)
        results = evaluate_pictures(run, labelled, progress)
    else:
        results = evaluate_language(run, *_texts(run, settings, data, progress), name, progress)
    for line in results:
        run.log("evals.jsonl", line)
    return results


def _texts(run: Run, settings: TextData, data: Data | None, progress: Progress) -> tuple[TokenStore | None, TokenStore]:
    """What the run learned from, where it can still be opened and is as it was, and what it is scored on."""
    if data is None:
        own = _own(run, progress)
        if not isinstance(own.held_out, TokenStore):
            raise UserError(f"{run.recipe.data.source} has no held-out text; name some with --data")
        assert isinstance(own.train, TokenStore)
        return own.train, own.held_out
    source = open_source(data, columns_of(settings.columns), settings.cache)
    source.require("text")
    part = next(source.parts[name] for name in ("test", "valid", "train") if name in source.parts)
    tokenizer, root = str(run.folder / "tokenizer"), cache_root(settings.cache)
    held_out, _ = open_tokens(part, part, tokenizer, None, root, progress.part)  # all of it is held out
    try:
        train = _own(run, progress).train
    except UserError:
        return None, held_out
    assert isinstance(train, TokenStore)
    return train, held_out


def _own(run: Run, progress: Progress) -> Prepared:
    """The run's own data, as it was."""
    own = prepare(run.data, None, False, progress)
    if own.facts.content != run.facts.content:
        source = run.recipe.data.source
        raise UserError(f"{source} has changed since {run.folder} was trained on it; name held-out text with --data")
    return own

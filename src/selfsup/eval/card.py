"""Whether a run was worth it: its scores beside those of the obvious alternatives, and one sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from selfsup.data.facts import of_pictures
from selfsup.data.pixels import PixelStore
from selfsup.data.source import GIVEN, Data
from selfsup.data.store import cache_root
from selfsup.data.token_store import TokenStore
from selfsup.data.tokens import open_tokens
from selfsup.errors import UserError, nearest
from selfsup.eval.captions import evaluate_captions
from selfsup.eval.clustering import evaluate_clustering
from selfsup.eval.few_labels import LEVELS, Level
from selfsup.eval.fine_tune import fine_tuned
from selfsup.eval.labelled import Labelled, open_labelled, open_source_of
from selfsup.eval.language import evaluate_language
from selfsup.eval.order import evaluate_order
from selfsup.eval.pair_labels import evaluate_pairs
from selfsup.eval.pictures import evaluate_unlabelled
from selfsup.eval.probes import answers, lines, representations, save_probe, score, usable
from selfsup.eval.result import Result, result
from selfsup.eval.retrieval import evaluate_retrieval
from selfsup.eval.sts import evaluate_sts
from selfsup.eval.text_encoders import Asked
from selfsup.eval.towers import open_links, sides_of
from selfsup.eval.verdict import Gain, gains, sentence
from selfsup.eval.word_tests import evaluate_words
from selfsup.eval.words_in_context import evaluate_words_in_context
from selfsup.eval.zero_shot import PLAIN, evaluate_zero_shot, read_templates
from selfsup.predict import holds
from selfsup.predictors.pair import Pair
from selfsup.prepare import Prepared, open_part, prepare
from selfsup.progress import Progress
from selfsup.recipes import CaptionData, ImageData, TextData
from selfsup.run import Run

log = logging.getLogger("selfsup")
Task = Literal["words-in-context", "words", "sts", "pairs", "retrieval", "clustering"]
TASKS: dict[Task, Callable[[Run, Asked, Progress], tuple[list[Result], list[Gain]]]] = {
    "words-in-context": lambda run, asked, progress: evaluate_words_in_context(run, asked.data, progress),
    "words": lambda run, asked, progress: evaluate_words(run, asked.data, progress),
    "sts": evaluate_sts,
    "pairs": evaluate_pairs,
    "retrieval": evaluate_retrieval,
    "clustering": evaluate_clustering,
}
BY_COLUMNS = ("sts", "pairs", "clustering")  # tasks whose data is a source with columns by meaning
BY_VECTORS = (*BY_COLUMNS, "retrieval")  # tasks that anything with a vector for a text can be scored by


def evaluate(  # noqa: PLR0913 - flags of one verb
    folder: str | os.PathLike,
    data: Data | None = None,
    columns: tuple[str, ...] = (),
    labels: Sequence[str] = LEVELS,
    fine_tune: bool = False,
    quiet: bool = False,
    task: Task | None = None,
    words: str | os.PathLike | None = None,
    templates: str | os.PathLike | None = None,
) -> list[Result]:
    """Score a run, append the results to its `evals.jsonl`, and return them; the last one is the verdict.

    With labels: kNN and linear probes of the run, its untrained network, the raw input, and its start where it was
    given weights. Without: finding pictures by another view, or what the heads of a text run are worth. A run on
    pictures and captions tells classes by their names, and finds captions by pictures and back.

    Args:
        folder: the run.
        data: labelled samples, or samples that were held out; the run's own source when not given.
        columns: `meaning=name` pairs for the data.
        labels: amounts of labels for the probes: `10%` is a share, `5` is five a class.
        fine_tune: also train the whole network with these labels, beside the same from scratch.
        quiet: no progress on the terminal.
        task: in place of all this. `words-in-context`: whether the vector of a word tells its senses apart; `data` is
            pairs of sentences, see `open_word_pairs`. `words`: similarity and analogies; see `evaluate_words`. `sts`,
            `pairs`, `retrieval` and `clustering`: what the vectors of texts are worth; see the files of these names.
        words: a run of word2vec, or its exported folder, to stand beside the run in these last four.
        templates: text file for the zero-shot score of a run on pictures and captions; see `read_templates`.

    Raises:
        UserError: no such run, no model in it yet, or data that nothing can be scored on.
    """
    run = Run(folder)
    if not run.step:
        raise UserError(f"{folder} has no checkpoint yet; go on with selfsup resume {folder}")
    progress = Progress(not quiet)
    _check(task, columns, fine_tune, words)
    filled = read_templates(None if templates is None else Path(templates))
    if templates is not None and task:
        raise UserError(f"--templates {templates}: --task {task} names no classes; drop one of both")
    if templates is not None and not holds(folder, Pair.kind):
        raise UserError(f"--templates {templates}: {folder} knows no names of classes; a run of clip does")
    if task:
        results, found = TASKS[task](run, Asked(data, columns, words), progress)
    else:
        levels = [Level.parse(text) for text in dict.fromkeys(labels)]
        results, found = _card(run, data, columns, levels, fine_tune, filled, progress)
    worth, said = sentence(found)
    verdict = result(run, "verdict", "run", "worth it", float(worth), 0.0, results[0]["data"], results[-1]["split"])
    results.append({**verdict, "text": said})
    for line in results:
        run.log("evals.jsonl", line)
    return results


def _check(task: Task | None, columns: tuple[str, ...], fine_tune: bool, words: str | os.PathLike | None) -> None:
    """Raise `UserError` for what a task does not take."""
    if task and task not in TASKS:
        raise UserError(f"--task {task} is unknown; {nearest(task, TASKS)}")
    if task and task not in BY_COLUMNS and (columns or fine_tune):
        raise UserError(f"--task {task} takes neither --columns nor --fine-tune: its data has fields of its own")
    if task and fine_tune:
        raise UserError(f"--task {task} does not take --fine-tune: it scores vectors as they are")
    if words is not None and task not in BY_VECTORS:
        raise UserError(f"--words {words} stands beside the run with --task {', '.join(BY_VECTORS)} only")


def _card(
    run: Run,
    data: Data | None,
    columns: tuple[str, ...],
    levels: list[Level],
    fine_tune: bool,
    templates: tuple[str, ...],
    progress: Progress,
) -> tuple[list[Result], list[Gain]]:
    """What the data allows to score: with its labels, or without any."""
    recipe, pictures = run.recipe, of_pictures(run.facts)
    own = replace(recipe.data, columns=columns or recipe.data.columns)
    name = own.source if data is None else str(data) if isinstance(data, str | os.PathLike) else GIVEN
    settings = own if data is None else replace(own, source=name, columns=columns)
    resolution = pictures.resolution if pictures else 0
    labelled = _labels(settings, data, resolution, progress)
    if labelled is None and templates != PLAIN:
        raise UserError(f"--templates are for the names of classes, and {name} has no labels; drop it")
    results: list[Result] = []
    found: list[Gain] = []
    if labelled is not None:
        results, found = _with_labels(run, labelled, levels, fine_tune, progress)
    elif fine_tune:
        raise UserError(f"{name} has no labels to fine-tune with; name labelled data with --data")
    if isinstance(settings, CaptionData):
        spoken, gained = _by_captions(run, settings, data, labelled, templates, name, progress)
        results, found = results + spoken, found + gained
    if isinstance(settings, ImageData) and not results:
        store, split = _pictures(run, settings, data, resolution, progress)
        results, found = evaluate_unlabelled(run, store, name, split, progress)
    if isinstance(settings, TextData) and (labelled is None or data is None):
        kinds = {predictor.kind for predictor in run.untrained().predictors()}
        judges = {"order": evaluate_order, "generate": evaluate_language, "fill": evaluate_language}
        refused: UserError | None = None
        for judge in dict.fromkeys(judge for kind, judge in judges.items() if kind in kinds):
            try:
                spoken, gained = judge(run, *_texts(run, settings, data, progress), name, progress)
                results, found = results + spoken, found + gained
            except UserError as error:
                refused = error
        if refused and not results:
            raise refused
        if refused:  # what the labels have told stands
            log.warning("%s is not scored as text: %s", name, refused)
    if not results:
        raise UserError(f"{name} has no labels, and a run of {recipe.objective} is scored with some; name such --data")
    return results, found


def _with_labels(
    run: Run, labelled: Labelled, levels: list[Level], fine_tune: bool, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """Probes, and where asked the whole network trained on."""
    levels = usable(levels, labelled)
    scores = score(
        representations(run, labelled), labelled, levels, run.recipe.seed, progress,
        lambda probe, accuracy: save_probe(run, labelled, probe, accuracy),
    )  # fmt: skip
    found = gains(answers(labelled, scores))
    if fine_tune:
        tuned = fine_tuned(run, labelled, levels, progress)
        scores += tuned
        found += gains(answers(labelled, tuned))
    return lines(run, labelled, scores), found


def _labels(settings: ImageData | TextData, data: Data | None, resolution: int, progress: Progress) -> Labelled | None:
    """Labelled samples; of pictures with captions, which are scored without any, labels that do not serve are left."""
    try:
        return open_labelled(settings, data, resolution, progress)
    except UserError as error:
        if not isinstance(settings, CaptionData):
            raise
        log.warning("not scored by labels: %s", error)
        return None


def _by_captions(
    run: Run,
    settings: CaptionData,
    data: Data | None,
    labelled: Labelled | None,
    templates: tuple[str, ...],
    name: str,
    progress: Progress,
) -> tuple[list[Result], list[Gain]]:
    """Classes by their names where there are labels, and captions by pictures and back where there are captions."""
    try:
        opened = open_links(run, settings, data, progress)
    except UserError as error:
        if labelled is None:
            raise
        log.warning("not scored by captions: %s", error)  # what the labels have told stands
        opened = None
    pictures = labelled.train if labelled is not None else opened[0].pictures if opened is not None else None
    if pictures is None:
        return [], []
    assert isinstance(pictures, PixelStore)
    results: list[Result] = []
    found: list[Gain] = []
    sides = sides_of(run, pictures)
    if labelled is not None:
        results, found = evaluate_zero_shot(run, sides, labelled, templates, progress)
    if opened is not None:
        links, split = opened
        spoken, gained = evaluate_captions(run, sides, links, name, split, progress)
        results, found = results + spoken, found + gained
    return results, found


def _pictures(
    run: Run, settings: ImageData, data: Data | None, resolution: int, progress: Progress
) -> tuple[PixelStore, str]:
    """Pictures that the run did not learn from, where there are some: its held-out part, or what was named."""
    if data is None:
        own = prepare(run.data, None, False, progress)
        held_out = own.held_out is not None and len(own.held_out) > 1
        store = own.held_out if held_out else own.train
        assert isinstance(store, PixelStore)
        return store, "held-out" if held_out else "train"
    source, name = open_source_of(settings, data)
    split = next(part for part in ("test", "valid", "train") if part in source.parts)
    facts = of_pictures(run.facts)
    assert facts is not None
    store = open_part(source.parts[split], resolution, settings, progress, facts.channels)
    if len(store) < 2:
        raise UserError(f"{name}: {len(store)} picture and no label: nothing can be scored on it; give two or more")
    return store, split


def _texts(run: Run, settings: TextData, data: Data | None, progress: Progress) -> tuple[TokenStore | None, TokenStore]:
    """What the run learned from, where it can still be opened and is as it was, and what it is scored on."""
    if data is None:
        own = _own(run, progress)
        if not isinstance(own.held_out, TokenStore):
            raise UserError(f"{run.recipe.data.source} has no held-out text; name some with --data")
        assert isinstance(own.train, TokenStore)
        return own.train, own.held_out
    source, _ = open_source_of(settings, data)
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
    if own.facts != run.facts:
        source = run.recipe.data.source
        raise UserError(f"{source} has changed since {run.folder} was trained on it; name held-out text with --data")
    return own

"""The verbs that make a run and judge it: typed functions that call the library and print what it returns."""

from __future__ import annotations

import json as json_format
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfsup.errors import UserError

Positional = tyro.conf.Positional
Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]  # off: nothing to say about it


def _typed(text: str) -> str:
    """What a user typed, with line ends where a shell leaves a backslash and an n."""
    return text.replace("\\n", "\n")


def _until_stopped(work: Callable[[], object]) -> int:
    """Exit code of training: 0, or as shells have it, 128 and the number of the signal that ended it."""
    from selfsup.runtime import Stopped

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        work()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    return 0


def show(run: Positional[str], json: Switch = False) -> int:
    """What a run is, or an objective: its recipe, its state, its scores.

    Args:
        run: folder of a run, or name of an objective, such as simclr, or simclr+mae.
        json: print JSON.
    """
    from selfsup.names import objective_names, parts_of
    from selfsup.objective import load_objective
    from selfsup.run import Run
    from selfsup.settings import to_json

    if not Path(run).exists() and (run in objective_names() or len(parts_of(run)) > 1):
        module = load_objective(run)
        if json:
            print(json_format.dumps(to_json(module.recipe()), indent=2))
        else:
            print((module.__doc__ or "").strip())
            print("\nrecipe:\n" + json_format.dumps(to_json(module.recipe()), indent=2))
        return 0
    found = Run(run)
    record = {**found.record, "step": found.step, "checkpoints": found.steps}
    print(json_format.dumps(record, indent=2))
    scores = [line for line in found.lines("evals.jsonl") if line["task"] not in ("pretext", "health", "mining")]
    if scores and not json:
        from selfsup.tables import results_text

        print(results_text(scores))
    return 0


def train(arguments: tuple[str, ...]) -> int:
    """Learn from data without labels: selfsup train NAME --data ... --out ...

    Args:
        arguments: name of an objective, or a path to a .py file of yours, and the flags of its settings.
    """
    from selfsup.parse import training

    recipe, out = training(arguments[0], list(arguments[1:]))
    from selfsup.training import train as run_training

    return _until_stopped(lambda: run_training(recipe, out))


def audit(arguments: tuple[str, ...]) -> int:
    """How often can the question of an objective not be answered on your data? selfsup audit NAME --data ... --out ...

    Args:
        arguments: name of an objective, or a path to a .py file of yours, and flags: its settings, --folds, --draws.
    """
    from selfsup.parse import auditing

    recipe, out, asking = auditing(arguments[0], list(arguments[1:]))
    from selfsup.audit import audit as run_audit
    from selfsup.tables import audit_text

    def work() -> None:
        found = run_audit(recipe, out, asking.folds, asking.draws, recipe.data.weights)
        print(json_format.dumps(found) if asking.json else audit_text(found))

    return _until_stopped(work)


def resume(run: Positional[Path], more: int | None = None) -> int:
    """Go on with a stopped or killed run, exactly as if it had not been; --more gives a finished one more steps.

    Args:
        run: folder of the run.
        more: steps to add.
    """
    from selfsup.training import resume as go_on

    if more is not None and more < 1:
        raise UserError(f"--more {more}: allowed is a number of steps, 1 or more")
    return _until_stopped(lambda: go_on(run, more))


def eval_(  # noqa: PLR0913 - flags of one verb
    run: Positional[Path],
    data: str | None = None,
    columns: tuple[str, ...] = (),
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AMOUNT ...")] = ("1%", "10%", "100%"),
    fine_tune: Switch = False,
    task: Literal["words-in-context", "words", "sts", "pairs", "retrieval", "clustering"] | None = None,
    words: str | None = None,
    templates: str | None = None,
    json: Switch = False,
) -> int:
    """Was it worth it? Scores of the run beside the untrained network and the raw input, and one sentence.

    Args:
        run: folder of the run.
        data: labelled pictures or texts, or such as were held out; the run's own source when not given.
        columns: columns of the data by meaning, such as label=species.
        labels: how many the probes may see: 10% is a share, 5 is five a class.
        fine_tune: train the whole network with the labels too, beside the same from scratch; takes long.
        task: words-in-context scores pairs of sentences instead, as .jsonl: word, sentence1, sentence2, label; words
            scores vectors of words by a file, or a folder of files, of pairs with scores or of analogies. Vectors of
            texts are scored by sts: pairs with the columns query, positive (or sentence1, sentence2) and score;
            by pairs: the same with a label, 0 or 1; by retrieval: a folder with corpus.jsonl, queries.jsonl and
            qrels.tsv; by clustering: texts with a label.
        words: a run of word2vec, or its exported folder, that stands beside the run in the last four tasks.
        templates: text file with one template a line, such as: a photo of a {}; for a run of clip, which tells classes
            by their names.
        json: print one JSON object a line.
    """
    from selfsup.eval.card import evaluate
    from selfsup.tables import json_lines, results_text

    rows = evaluate(run, data, columns, labels, fine_tune, task=task, words=words, templates=templates)
    print(json_lines(rows) if json else results_text(rows))
    return 0


def compare(
    runs: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")],
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DATA ...", help_behavior_hint="")],
    columns: tuple[str, ...] = (),
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AMOUNT ...")] = ("1%", "10%", "100%"),
    fine_tune: Switch = False,
    out: Path | None = None,
    plot: Path | None = None,
    json: Switch = False,
) -> int:
    """Several runs on several label sets: what each transfers, which of its layers does best, and what it has cost.

    The raw input and each network untrained stand beside them.

    Args:
        runs: runs, exported folders, hf:ID or timm:NAME, which read the same kind of data.
        data: labelled pictures or texts.
        columns: columns of the data by meaning, such as label=species, each for the data that has it.
        labels: how many the probes may see: 10% is a share, 5 is five a class.
        fine_tune: train the whole networks with the labels too, beside the same from scratch; takes long.
        out: file that each result is written to as soon as it is there, .jsonl; the same command goes on where it was
            stopped, and with more runs or data only what is new is computed.
        plot: file for a picture of the scores, .png.
        json: print one JSON object a line.
    """
    from selfsup.compare import compare as compare_runs
    from selfsup.tables import comparison_text, json_lines

    rows = compare_runs(runs, data, columns, labels, fine_tune, out, plot)
    print(json_lines(rows) if json else comparison_text(rows))
    return 0


def doctor(run: Positional[Path], json: Switch = False) -> int:
    """What is wrong with a run, the likely cause, and the flag to try.

    Args:
        run: folder of the run; it may still be going on.
        json: print one JSON object a line.
    """
    from dataclasses import asdict

    from selfsup.eval.doctor import examine
    from selfsup.tables import json_lines

    examined = examine(run)
    if json:
        print(json_lines(map(asdict, examined.findings)))
        return 0
    for name, value in examined.vitals.items():
        print(f"{name:<28}{value:>12.4g}")
    print()
    for finding in examined.findings:
        print(f"{finding.check}: {finding.said}")
    if not examined.findings:
        print("nothing found: the run looks healthy")
    return 0


def export(run: Positional[Path], out: Positional[Path]) -> int:
    """Copy the networks of a run to folders that timm and transformers load, and print the code that does.

    Args:
        run: folder of the run.
        out: folder to write.
    """
    from selfsup.exports import export as copy

    for name, code in copy(run, out).items():
        print(f"# {out / name}\n{code}")
    return 0

"""The verbs: typed functions that call the library and print what it returns."""

from __future__ import annotations

import json as json_format
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from selfsup.errors import UserError

Positional = tyro.conf.Positional
Switch = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]  # off: nothing to say about it


def _table(rows: list[dict[str, Any]]) -> None:
    """Print results: a row for each task, metric and amount of labels, a column for each representation."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(row["representation"] for row in rows))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("task", "labels", "metric", *names, "chance", "data"):
        table.add_column(heading, justify="right" if heading in (*names, "labels", "chance") else "left", no_wrap=True)
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], _labels(row), row["metric"]), {})[row["representation"]] = row
    for (task, labels, metric), group in groups.items():
        first = next(iter(group.values()))
        cells = [_number(group[name], metric) if name in group else "" for name in names]
        chance = _number({"mean": first["chance"]}, metric)
        table.add_row(task, labels, metric, *cells, chance, f"{first['data']} ({first['split']})")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _labels(row: dict[str, Any]) -> str:
    """How many labels were seen: a share, or so many a class; nothing where none were."""
    if "per_class" in row:
        return f"{row['per_class']} a class"
    return f"{100 * row['labels']:g} %" if row["labels"] else ""


def _number(row: dict[str, Any], metric: str) -> str:
    """Accuracies in percent, with their deviation over draws of labels; everything else with four figures."""
    if "accuracy" not in metric:
        return f"{row['mean']:.4g}"
    deviation = f" ± {100 * row['sd_labels']:.1f}" if "sd_labels" in row else ""
    return f"{100 * row['mean']:.1f}{deviation} %"


def _show_results(rows: list[dict[str, Any]], json: bool) -> int:
    if json:
        print("\n".join(json_format.dumps(row) for row in rows))
    else:
        _table([row for row in rows if row["task"] != "verdict"])
        print("".join(f"\n{row['text']}" for row in rows if row["task"] == "verdict"))
    return 0


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
        run: folder of a run, or name of an objective.
        json: print JSON.
    """
    from selfsup.names import objective_names
    from selfsup.objective import load_objective
    from selfsup.recipes import to_json
    from selfsup.run import Run

    if run in objective_names():
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
    scores = [line for line in found.lines("evals.jsonl") if line["task"] not in ("pretext", "health")]
    if scores and not json:
        _show_results(scores, json=False)
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


def eval_(
    run: Positional[Path],
    data: str | None = None,
    columns: tuple[str, ...] = (),
    labels: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AMOUNT ...")] = ("1%", "10%", "100%"),
    fine_tune: Switch = False,
    json: Switch = False,
) -> int:
    """Was it worth it? Scores of the run beside the untrained network and the raw input, and one sentence.

    Args:
        run: folder of the run.
        data: labelled pictures or texts, or such as were held out; the run's own source when not given.
        columns: columns of the data by meaning, such as label=species.
        labels: how many the probes may see: 10% is a share, 5 is five a class.
        fine_tune: train the whole network with the labels too, beside the same from scratch; takes long.
        json: print one JSON object a line.
    """
    from selfsup.eval.card import evaluate

    return _show_results(evaluate(run, data, columns, labels, fine_tune), json)


def doctor(run: Positional[Path], json: Switch = False) -> int:
    """What is wrong with a run, the likely cause, and the flag to try.

    Args:
        run: folder of the run; it may still be going on.
        json: print one JSON object a line.
    """
    from dataclasses import asdict

    from selfsup.eval.doctor import examine

    examined = examine(run)
    if json:
        print("\n".join(json_format.dumps(asdict(finding)) for finding in examined.findings))
        return 0
    for name, value in examined.vitals.items():
        print(f"{name:<28}{value:>12.4g}")
    print()
    for finding in examined.findings:
        print(f"{finding.check}: {finding.said}")
    if not examined.findings:
        print("nothing found: the run looks healthy")
    return 0


def classify(run: Positional[str], data: Positional[str], like: str, out: Path, columns: tuple[str, ...] = ()) -> int:
    """A class for each picture or text, learned from labelled examples; one CSV.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to classify.
        like: labelled examples, one folder per class or a table with a label column.
        out: file to write, .csv.
        columns: columns of the examples by meaning, such as label=species.
    """
    from selfsup.classify import classify as write_classes

    print(write_classes(run, data, like, out, columns))
    return 0


def embed(run: Positional[str], data: str, out: Path, columns: tuple[str, ...] = ()) -> int:
    """One vector for each picture or text, as .npy or .parquet.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to embed.
        out: file to write; .parquet holds the names too.
        columns: columns of the data by meaning, such as text=body.
    """
    from selfsup.predict import embed as write_vectors
    from selfsup.prepare import columns_of

    print(write_vectors(run, data, out, columns_of(columns)))
    return 0


def generate(
    run: Positional[str],
    prompt: Positional[str] = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> int:
    """Continue a text with a language model.

    Args:
        run: a run of a language model, or an exported folder.
        prompt: what to continue.
        tokens: most tokens to make.
        temperature: 0 for the likeliest text, 1 for the model's own probabilities.
        top_k: candidates at each token; 0 for all.
        seed: of the choice among them.
    """
    from selfsup.predict import generate as pieces

    sys.stdout.write(prompt)
    for piece in pieces(run, prompt, tokens, temperature, top_k, seed):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
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

"""The verbs: typed functions that call the library and print what it returns."""

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
        run: folder of a run, or name of an objective.
        json: print JSON.
    """
    from selfsup.names import objective_names
    from selfsup.objective import load_objective
    from selfsup.run import Run
    from selfsup.settings import to_json

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
    task: Literal["words-in-context"] | None = None,
    json: Switch = False,
) -> int:
    """Was it worth it? Scores of the run beside the untrained network and the raw input, and one sentence.

    Args:
        run: folder of the run.
        data: labelled pictures or texts, or such as were held out; the run's own source when not given.
        columns: columns of the data by meaning, such as label=species.
        labels: how many the probes may see: 10% is a share, 5 is five a class.
        fine_tune: train the whole network with the labels too, beside the same from scratch; takes long.
        task: words-in-context scores pairs of sentences instead, as .jsonl: word, sentence1, sentence2, label.
        json: print one JSON object a line.
    """
    from selfsup.eval.card import evaluate
    from selfsup.tables import json_lines, results_text

    rows = evaluate(run, data, columns, labels, fine_tune, task=task)
    print(json_lines(rows) if json else results_text(rows))
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


def classify(  # noqa: PLR0913 - flags of one verb
    run: Positional[str],
    data: Positional[str],
    like: str,
    out: Path,
    columns: tuple[str, ...] = (),
    shots: int | None = None,
    prompt: str | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> int:
    r"""A class for each picture or text, learned from labelled examples or by prompting; one CSV.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to classify.
        like: labelled examples, one folder per class or a table with a label column.
        out: file to write, .csv.
        columns: columns of the examples by meaning, such as label=species.
        shots: ask a language model, in place of a probe, with so many examples in each prompt; 0 shows none.
        prompt: an example with the places of both, \n for the end of a line; {text}\nlabel: {label}\n\n if not given.
        draws: how often to ask, with other examples; 5 if not given.
        seed: of the choice of examples; 0 if not given.
    """
    if shots is None:
        given = [
            flag for flag, value in (("--prompt", prompt), ("--draws", draws), ("--seed", seed)) if value is not None
        ]
        if given:
            raise UserError(f"{', '.join(given)} without --shots: add --shots N, the examples in a prompt, 0 for none")
        from selfsup.classify import classify as write_classes

        print(write_classes(run, data, like, out, columns))
        return 0
    from selfsup.prompting import DRAWS, PROMPT, Prompting, prompt_classes

    asked = Prompting(
        shots=shots,
        prompt=PROMPT if prompt is None else _typed(prompt),
        draws=DRAWS if draws is None else draws,
        seed=seed or 0,
    )
    file, found = prompt_classes(run, data, like, out, asked, columns)
    print(file)
    if found is not None:
        print(found)
    return 0


def embed(run: Positional[str], data: str, out: Path, columns: tuple[str, ...] = ()) -> int:
    """One vector for each picture or text, as .npy or .parquet.

    Args:
        run: a run, an exported folder, or hf:ID.
        data: what to embed.
        out: file to write; .parquet holds the names too.
        columns: columns of the data by meaning, such as text=body.
    """
    from selfsup.embedding import embed as write_vectors
    from selfsup.prepare import columns_of

    print(write_vectors(run, data, out, columns_of(columns)))
    return 0


def generate(
    run: Positional[str],
    prompt: Positional[str] = "",
    tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STRING ...")] = (),
    seed: int = 0,
) -> int:
    r"""Continue a text with a language model.

    Args:
        run: a run of a language model, or an exported folder.
        prompt: what to continue.
        tokens: most tokens to make.
        temperature: 0 for the likeliest text, 1 for the model's own probabilities.
        top_k: candidates at each token; 0 for all.
        top_p: of these only the likeliest that have this probability together; 1 for all.
        stop: the text ends before the first of these that it comes to; \n is the end of a line.
        seed: of the choice among the candidates.
    """
    from selfsup.predict import generate as pieces

    sys.stdout.write(prompt)
    for piece in pieces(run, prompt, tokens, temperature, top_k, seed, top_p, tuple(map(_typed, stop))):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0


def fill(run: Positional[str], text: Positional[str], top_k: int = 5, json: Switch = False) -> int:
    """Guess the words behind the masks of a text with a masked language model.

    Args:
        run: a run of a masked language model, or an exported folder.
        text: text with [MASK], or what its tokenizer calls it, where a word is missing.
        top_k: guesses for each mask.
        json: print one JSON object a line.
    """
    from selfsup.predict import fill as guesses
    from selfsup.tables import chance_table, json_lines

    masks = guesses(run, text, top_k)
    for number, found in enumerate(masks, 1):
        if json:
            print(json_lines({"mask": number, "token": one.token, "probability": one.probability} for one in found))
        else:
            rows = [(json_format.dumps(one.token, ensure_ascii=False), one.probability) for one in found]
            print(f"mask {number} of {len(masks)}\n{chance_table(rows)}")
    return 0


def continue_(run: Positional[str], text: Positional[str], candidates: Path, json: Switch = False) -> int:
    """Rank passages by how well they continue a text.

    Args:
        run: a run of sentence_order or of a language model, or an exported folder.
        text: what came before.
        candidates: text file with one passage a line.
        json: print one JSON object a line.
    """
    from selfsup.predict import continuations, passages_of
    from selfsup.tables import chance_table, json_lines

    ranked = continuations(run, text, passages_of(candidates))
    rows = ({"probability": chance, "passage": passage} for passage, chance in ranked)
    print(json_lines(rows) if json else chance_table(ranked))
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

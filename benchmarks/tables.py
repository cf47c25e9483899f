"""The tables of docs/results.md: train and evaluate with three seeds, one job at a time; what is done is kept.

    python benchmarks/tables.py NAME --data DIR [--out runs/tables] [--seeds 0 1 2]

NAME: `glyphs` (the demo; needs no data), `cifar10` (DIR has train/ and test/ with a folder a class), `shakespeare` (DIR
has the text), `sst2` and `trec` (DIR has train.csv and test.csv with a text and a label), `order` (DIR has train/ and
test/ with books). Each run is the printed command; a run that is complete is not done again. Progress goes to standard
error, the table to standard output: a column for each kind of run, and behind them the alternatives of the first kind.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

JOBS = {  # kinds of runs by table
    "glyphs": {"run": "train simclr --data sample:glyphs"},
    "cifar10": {"run": "train simclr --data {data} --minutes 16"},
    "shakespeare": {
        "run": "train causal_lm --data {data} --tokenizer char --layers 4 --heads 4 --width 128 --context 64 "
        "--batch 12 --steps 2000"
    },
    "sst2": {"run": "train causal_lm --data {data} --minutes 1"},
    "trec": {"run": "train causal_lm --data {data} --minutes 1"},
    "order": {
        negatives: f"train sentence_order --data {{data}} --negatives {negatives} --steps 800"
        for negatives in ("both", "random")
    },
}


def call(*words: str) -> None:
    """Run a selfsup command, said first."""
    sys.stderr.write(f"$ selfsup {shlex.join(words)}\n")
    subprocess.run([sys.executable, "-m", "selfsup", *words], check=True, stdout=subprocess.DEVNULL)


def lines(folder: Path) -> list[dict]:
    """The results of a run that was evaluated (`eval` writes them all at its end); none otherwise."""
    file = folder / "evals.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in found if line["task"] not in ("pretext", "health", "online knn", "verdict")]


def results(name: str, data: str, out: Path, seeds: list[int]) -> dict[str, list[list[dict]]]:
    """The evaluations of all kinds and seeds, training what is missing."""
    found: dict[str, list[list[dict]]] = {kind: [] for kind in JOBS[name]}
    for seed in seeds:
        for kind, command in JOBS[name].items():
            folder = out / "-".join([name, *([] if kind == "run" else [kind]), str(seed)])
            if not lines(folder):
                if (folder / "run.json").exists():
                    call("resume", str(folder))
                else:
                    job = [word.format(data=data) for word in command.split()]
                    call(*job, "--seed", str(seed), "--out", str(folder))
                call("eval", str(folder))
            found[kind].append(lines(folder))
    return found


def table(runs: dict[str, list[list[dict]]]) -> str:
    """Mean and deviation over seeds for each task, metric and representation, as Markdown."""
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    first = next(iter(runs))
    for kind, line in ((kind, line) for kind, seeds in runs.items() for seed in seeds for line in seed):
        labels = f"{line['labels']:.0%}" if line["labels"] else ""
        row = cells.setdefault((line["task"], labels, line["metric"]), {})
        if line["representation"] == "run":
            row.setdefault(kind, []).append(line["mean"])
        elif kind == first:
            row.setdefault(line["representation"], []).append(line["mean"])
        if line["representation"] == "run" and kind == first:  # by chance a compressor of bytes knows another number
            row.setdefault("chance", []).append(line["chance"])
    others = dict.fromkeys(name for row in cells.values() for name in row if name not in {*runs, "chance"})
    names = [*runs, *others, "chance"]
    head = "| task | labels | metric | " + " | ".join(names) + " |\n|---|---|---|" + "---|" * len(names)
    body = []
    for (task, labels, metric), row in cells.items():
        percent = 100 if "accuracy" in metric else 1
        shown = []
        for name in names:
            values = [percent * value for value in row.get(name, [])]
            sd = statistics.stdev(values) if len(values) > 1 else 0.0
            figure = f"{statistics.mean(values):.2f}" if values else ""
            shown.append(f"{figure} ± {sd:.2f}" if sd > 0.005 else figure)
        body.append(f"| {task} | {labels} | {metric}{' %' if percent == 100 else ''} | " + " | ".join(shown) + " |")
    return "\n".join([head, *body])


def main() -> None:
    """Do the jobs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(JOBS))
    parser.add_argument("--data", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    sys.stdout.write(table(results(given.name, given.data, given.out, given.seeds)) + "\n")


if __name__ == "__main__":
    main()

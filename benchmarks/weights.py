"""What weights from an audit do to the features: weighted runs beside plain ones, in docs/results.md.

    python benchmarks/weights.py NAME --data DIR [--out runs/audits] [--seeds 0 1 2] [--keep FILE]

NAME, DIR and OUT are those of benchmarks/audits.py, whose audit of a seed, as they are, is taken or done. A run has the
settings of that audit on all of its rows, and the labels of the held-out pictures judge it. A run that is complete is
not done again, nor one whose scores are in FILE, where they are written as a line of JSON a run. The table goes to
standard output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audits import DRAWS, JOBS, audited, made, weights_of
from captions import shell, trained
from kept import keep, kept
from tables import SCORE, commit, judged, lines, table

KIND = "as they are"


def main() -> None:
    """Train and score what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=["cifar10", "mnist"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    runs = [run for run in kept(given.keep) if run["name"] == given.name]
    data = made(given.name, KIND, given.data, given.out / "data")
    for seed in given.seeds:
        for kind in ("plain", "weighted"):
            if any((run["kind"], run["seed"]) == (kind, seed) for run in runs):
                continue
            folder = given.out / f"{given.name}-{kind}-{seed}"
            words = JOBS[given.name][KIND].replace("audit", "train", 1).replace(DRAWS, "").format(data=data)
            if kind == "weighted":
                words += f" --weights {weights_of(audited(given.name, KIND, seed, given))}"
            trained(f"{words} --seed {seed}", folder)
            if not judged(folder):
                shell(f"eval {folder}")
            command = words.replace(str(data), "DIR").replace(str(given.out), "OUT")
            run = {"name": given.name, "kind": kind, "seed": seed, "commit": commit(), "command": command}
            runs.append({**run, "scores": [{name: line[name] for name in SCORE} for line in lines(folder)]})
            keep(runs[-1], given.keep)
    of_kinds = {kind: [run["scores"] for run in runs if run["kind"] == kind] for kind in ("plain", "weighted")}
    sys.stdout.write(table(of_kinds) + "\n")


if __name__ == "__main__":
    main()

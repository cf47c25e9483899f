"""What the table `sts` of benchmarks/tables.py trains on and is scored by.

    python benchmarks/sts_data.py --sts DIR --sentences DIR --out DIR

--sts has stsb/ and sick/ with train.csv, dev.csv and test.csv (sentence1, sentence2, score), --sentences a folder a set
(sst2, subj, mr, trec, cola) whose train.csv has a column `text`. Written are `sentences.jsonl`, every sentence of the
training parts once, without scores and labels; `graded/`, the scored pairs of both training parts, with STS-B's
development part to be watched; and `stsb/`, its test part, which nothing else looks at.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path

RATED = ("stsb", "sick")
SETS = ("sst2", "subj", "mr", "trec", "cola")


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def pairs(file: Path) -> list[dict[str, object]]:
    """Two sentences and how alike people found them, 0 to 5."""
    return [
        {"query": row["sentence1"], "positive": row["sentence2"], "score": float(row["score"])} for row in rows(file)
    ]


def write(file: Path, lines: list[dict[str, object]]) -> None:
    """One line of JSON a row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write the three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name in ("sts", "sentences", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    graded = [pair for name in RATED for pair in pairs(given.sts / name / "train.csv")]
    texts = [str(pair[side]) for pair in graded for side in ("query", "positive")]
    texts += [row["text"] for name in SETS for row in rows(given.sentences / name / "train.csv")]
    texts = list(dict.fromkeys(texts))
    write(given.out / "sentences.jsonl", [{"text": text} for text in texts])
    write(given.out / "graded" / "train.jsonl", graded)
    write(given.out / "graded" / "valid.jsonl", pairs(given.sts / "stsb" / "dev.csv"))
    (given.out / "stsb").mkdir(exist_ok=True)
    shutil.copy(given.sts / "stsb" / "test.csv", given.out / "stsb")
    sys.stdout.write(f"{len(texts):,} sentences, {len(graded):,} scored pairs\n")


if __name__ == "__main__":
    main()

"""What transfers where: every objective for pictures, or for text, on several label sets.

    python benchmarks/transfer.py NAME --train DIR --data DIR [DIR ...] [--most N] [--out runs/transfer] [--minutes 4]
        [--seed 0]

NAME: `pictures` or `text`. Each objective learns from the same data without labels for the same minutes, one after the
other; `compare` then scores all of them on every label set, of pictures with at most N a class to train on. A run that
is complete is not done again, nor a score that is in OUT/NAME.jsonl. The commands go to standard error as they are
given; standard output gets the results, a line of JSON each, and OUT/NAME.png is a picture of them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from audits import once, some_pictures
from captions import trained
from side_by_side import say

OBJECTIVES = {
    "pictures": ("simclr", "mae", "dino", "rotation", "jigsaw", "inpainting", "simclr+mae"),
    "text": ("causal_lm", "masked_lm", "sentence_order", "contrastive_text", "word2vec"),
}


def fewer(data: Path, most: int, out: Path) -> Path:
    """A label set of pictures with at most so many of each class to train on, made once."""
    return once(out / data.name, lambda fresh: some_pictures(data, fresh, most))


def main() -> None:
    """Train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(OBJECTIVES))
    parser.add_argument("--train", required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--most", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.most and given.name == "text":
        parser.error("--most is for pictures")
    runs = [given.out / f"{name.replace('+', '-')}-{given.seed}" for name in OBJECTIVES[given.name]]
    for name, folder in zip(OBJECTIVES[given.name], runs, strict=True):
        trained(f"train {name} --data {given.train} --minutes {given.minutes:g} --seed {given.seed}", folder)
    kept, drawn = given.out / f"{given.name}.jsonl", given.out / f"{given.name}.png"
    sets = [fewer(one, given.most, given.out / "data") if given.most else one for one in given.data]
    words = ["compare", *map(str, runs), "--data", *map(str, sets), "--out", str(kept), "--plot", str(drawn), "--json"]
    say(f"selfsup {shlex.join(words)}")
    subprocess.run([sys.executable, "-m", "selfsup", *words], check=True)


if __name__ == "__main__":
    main()

"""Whether pretext questions suit data, where it is known beforehand: the table of audits in docs/results.md.

    python benchmarks/audits.py NAME --data DIR [--out runs/audits] [--seeds 0 1 2] [--keep FILE]

NAME: `cifar10`, `mnist` and `blood_cells` ask for the turn of pictures, in color or gray. DIR has train/ and test/ with
a folder a class; the first 500 of each by name are audited. 0, 1 and 8 look the same after half a turn. Cells have no
upper side, but their photographs do; each turned at random once, they have none left. `novels` asks for the order of
passages in the first novels of DIR, as they are and with the sentences of each novel shuffled. An audit that is
complete is not done again, nor one that is in FILE, where its report is written as a line of JSON. The table goes to
standard error.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from captions import shell
from kept import keep, kept
from PIL import Image
from side_by_side import device_name, say

DRAWS = " --draws 2"
TURNS = f"audit rotation --data {{data}} --pixels 32 --steps 300{DRAWS}"
ORDER = "audit sentence_order --data {data} --context 64 --layers 2 --heads 4 --width 128 --steps 2000 --draws 1"
JOBS = {
    "cifar10": {"as they are": TURNS, "gray": f"{TURNS} --gray 1"},
    "blood_cells": {"as they are": TURNS, "gray": f"{TURNS} --gray 1", "turned": TURNS},
    "mnist": {"as they are": f"{TURNS} --flip 0"},
    "novels": {"as they are": ORDER, "shuffled": ORDER},
}
END = r"([.!?\u2026][\"'\u201d\u2019)\]]*)\s+"  # of a sentence, wherever a segment may end
CHANGED = ("shuffled", "turned")  # kinds of data of their own
MOST, NOVELS = 500, 16  # pictures of a class, novels


def some_pictures(data: Path, out: Path, most: int, turned: bool = False) -> None:
    """The first training pictures of each class, and all test pictures; turned: each training picture at random."""
    chance = random.Random(0)
    for folder in sorted(path for path in (data / "train").iterdir() if path.is_dir()):
        (out / "train" / folder.name).mkdir(parents=True)
        for file in sorted(path for path in folder.iterdir() if path.is_file())[:most]:
            if turned:
                Image.open(file).rotate(90 * chance.randrange(4)).save(out / "train" / folder.name / f"{file.stem}.png")
            else:
                shutil.copy(file, out / "train" / folder.name)
    (out / "test").symlink_to((data / "test").resolve())


def some_novels(data: Path, out: Path, shuffled: bool) -> None:
    """The first novels; shuffled: the sentences of each in another order, in paragraphs as long as they were."""
    out.mkdir(parents=True)
    for file in sorted(data.rglob("*.txt"))[:NOVELS]:
        paragraphs = [" ".join(text.split()) for text in re.split(r"\n\s*\n", file.read_text(encoding="utf-8"))]
        cut = [re.sub(END, r"\1\n", text).split("\n") for text in paragraphs if text]
        sentences = [sentence for part in cut for sentence in part]
        if shuffled:
            random.Random(0).shuffle(sentences)
        rest = iter(sentences)
        (out / file.name).write_text("\n\n".join(" ".join(next(rest) for _ in part) for part in cut), encoding="utf-8")


def once(place: Path, write: Callable[[Path], None]) -> Path:
    """A folder that is written where it is not there, whole or not at all."""
    if not place.exists():
        fresh = place.with_name(place.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        write(fresh)
        fresh.rename(place)
    return place


def made(name: str, kind: str, data: Path, out: Path) -> Path:
    """The folder that is audited, made once."""
    place = out / f"{name}-{kind}" if kind in CHANGED else out / name
    if name == "novels":
        return once(place, lambda fresh: some_novels(data, fresh, kind in CHANGED))
    return once(place, lambda fresh: some_pictures(data, fresh, MOST, kind in CHANGED))


def audited(name: str, kind: str, seed: int, given: argparse.Namespace) -> Path:
    """The folder of an audit, done first where it is not; its weights lie beside it."""
    data = made(name, kind, given.data, given.out / "data")
    folder = given.out / f"{name}-{kind.replace(' ', '-')}-{seed}"
    words = JOBS[name][kind].format(data=data)
    shell(f"{words} --seed {seed} --out {folder} --weights {weights_of(folder)}")
    return folder


def weights_of(folder: Path) -> Path:
    """Where the weights of an audit are."""
    return folder.with_name(folder.name + ".parquet")


def main() -> None:
    """Do the audits and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(JOBS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/audits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    lines = [line for line in kept(given.keep) if line["name"] == given.name]
    for seed in given.seeds:
        for kind, words in JOBS[given.name].items():
            if any((line["kind"], line["seed"]) == (kind, seed) for line in lines):
                continue
            folder = audited(given.name, kind, seed, given)
            report = json.loads((folder / "audit.json").read_text())
            line = {"benchmark": "audits", "name": given.name, "kind": kind, "seed": seed, "device": device_name()}
            lines.append(
                {**line, "command": words.format(data="DIR") + f" --seed {seed}", **report, "data": given.name}
            )
            sys.stdout.write(json.dumps(lines[-1]) + "\n")
            keep(lines[-1], given.keep)
    for line in lines:
        asked = "; ".join(f"{one['name']} {one['right']:.3f} ({one['guessing']:.3f})" for one in line["questions"])
        labels = ", ".join(f"{one['label']} {one['difficulty']:.2f}" for one in line["labels"])
        say(f"{line['name']}, {line['kind']}, seed {line['seed']}: {asked}; {line['text']}; {labels}")


if __name__ == "__main__":
    main()

"""What pictures and captions teach each other: the tables of CLIP in docs/results.md.

    python benchmarks/captions.py NAME [--data DIR] [--out runs/captions] [--seeds 0 1 2] [--keep FILE]

NAME: `emoji`, `losses` (pictures and captions that are the same as negatives, as positives, and left out of the data;
and SigLIP), `starts` (towers that begin with what a run without captions learned; `simclr` and
`masked_lm` are trained first, on the same training data, and their time is not counted), `fused` (the pictures learn by
SimCLR as well, as in SLIP, in the same minutes), or `letters` (sample:glyphs, needs no data). DIR has train/ and test/,
each with a metadata.jsonl of file_name, text (a name) and texts (the name and tags), as `emoji` has them. Each run is
the printed command; a run that is complete is not done again, nor one whose scores are in FILE, where they are written
as a line of JSON a run. The table goes to standard error.

Zero-shot classes of emoji are the tags that 20 training pictures or more have, asked of held-out pictures that have
one of them and no other; of letters the script and case, asked of held-out fonts.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from kept import keep, kept
from side_by_side import device_name, say

from selfsup.data.captions import captioned, readable
from selfsup.data.pixels import PixelStore
from selfsup.data.source import open_source
from selfsup.encoder import Encoder
from selfsup.eval.captions import DEPTHS, Links, chance_at, found_at
from selfsup.eval.zero_shot import class_vectors, mean_per_class
from selfsup.prepare import open_part
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.sides import load_sides

LEAST = 20  # training pictures of a tag
TRAIN = "train clip --data {data} --pixels 64 --size nano"
LONG, EQUAL = f"{TRAIN} --minutes 20", f"{TRAIN} --steps 400"
FIRST = {  # runs that others start from
    "simclr": "train simclr --data {data} --pixels 64 --steps 400 --size nano --flip 0",
    "masked_lm": "train masked_lm --data {texts} --context 32 --steps 400 --size nano",
}
JOBS = {  # kinds of runs by table
    "emoji": {"softmax": LONG},
    "losses": {
        "negatives": f"{EQUAL} --duplicates negatives",
        "positives": EQUAL,
        "sigmoid": f"{EQUAL} --loss sigmoid",
        "left out": EQUAL.replace("{data}", "{distinct}"),
    },
    "starts": {
        "fresh": EQUAL,
        "pictures from simclr": f"{EQUAL} --image-init {{simclr}}",
        "texts from masked_lm": f"{EQUAL} --text-init {{masked_lm}}",
    },
    "fused": {name: f"{TRAIN} --minutes 4".replace("clip", name, 1) for name in ("clip", "clip+simclr")},
    "letters": {"softmax": "train clip --data sample:glyphs --minutes 3"},
}


def trained(words: str, folder: Path) -> None:
    """Train a run, or go on with it where it was stopped."""
    if not (folder / "run.json").exists():
        shell(f"{words} --out {folder}")
    elif "samples" not in Run(folder).record:  # which is written at the end
        shell(f"resume {folder}")


def shell(words: str) -> None:
    """Run a command of selfsup; its lines go to standard error."""
    say(f"selfsup {words}")
    subprocess.run([sys.executable, "-m", "selfsup", *shlex.split(words)], stdout=sys.stderr, check=True)


def distinct(data: Path, out: Path) -> Path:
    """The same data with each picture once, and without captions that another picture has too."""
    if out.exists():
        return out
    whole, out = out, out.with_name(out.name + ".new")
    shutil.rmtree(out, ignore_errors=True)
    for part in ("train", "test"):
        rows = [json.loads(line) for line in (data / part / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        (out / part).mkdir(parents=True)
        seen: set[bytes] = set()
        kept = []
        for row in rows:
            content = (data / part / row["file_name"]).read_bytes()
            if content not in seen:
                seen.add(content)
                kept.append(row)
        counts = Counter(text for row in kept for text in set(row["texts"]))
        for row in kept if part == "train" else rows:
            if part == "train":
                row["texts"] = [text for text in row["texts"] if counts[text] == 1] or [row["text"]]
            shutil.copy(data / part / row["file_name"], out / part)
        lines = "".join(json.dumps(row) + "\n" for row in (kept if part == "train" else rows))
        (out / part / "metadata.jsonl").write_text(lines, encoding="utf-8")
    out.rename(whole)
    return whole


def texts_of(data: Path, out: Path) -> Path:
    """All training captions as a text file, one a line."""
    rows = (json.loads(line) for line in (data / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(text for row in rows for text in row["texts"]) + "\n", encoding="utf-8")
    return out


def opened(data: str, part: str, column: str, run: Run) -> tuple[PixelStore, list[list[str]]]:
    """Pictures of a part with their captions in a column."""
    source = open_source(data, {"texts": column} if column != "texts" else {})
    found = captioned(source.parts[part], data)
    facts = run.facts.image  # type: ignore[union-attr]
    store = open_part(found.part, facts.resolution, run.recipe.data, Progress(False), facts.channels)  # type: ignore[arg-type]
    rows = readable(store)
    return store.subset(rows), [found.captions[row] for row in rows.tolist()]


def retrieval(sides: dict[str, Encoder], links: Links) -> dict[str, float]:
    """R@k both ways, and what chance gets."""
    pictures, texts = sides["image"].encode(links.pictures), sides["text"].encode(links.texts)
    scores = {}
    for way, asked, others, pairs in (
        ("picture to text", pictures, texts, links.pairs),
        ("text to picture", texts, pictures, links.pairs[:, ::-1]),
    ):
        hits, chance = found_at(asked, others, pairs), chance_at(len(asked), len(others), pairs)
        for k, hit, expected in zip(DEPTHS, hits, chance, strict=True):
            scores[f"{way} R@{k}"] = float(hit.double().mean())
            scores[f"{way} R@{k}, chance"] = float(expected.mean())
    return scores


def named(sides: dict[str, Encoder], pictures: PixelStore, labels: list[int], names: list[str]) -> dict[str, float]:
    """Zero-shot accuracy, mean of the classes that occur, and what chance gets."""
    cosines = sides["image"].encode(pictures) @ class_vectors(sides["text"], names).T
    right = cosines.argmax(1) == torch.tensor(labels)
    return {
        "balanced accuracy": mean_per_class(right, torch.tensor(labels)), "balanced accuracy, chance": 1 / len(names),
        "pictures": float(len(labels)), "classes": float(len(names)),
    }  # fmt: skip


def emoji_scores(run: Run, data: str) -> dict[str, dict[str, float]]:
    """Of a run on emoji."""
    sides = load_sides(run.folder)
    parts = {
        "held-out, names": ("test", "text"),
        "held-out, names and tags": ("test", "texts"),
        "training, names": ("train", "text"),
    }
    found = {name: retrieval(sides, Links.of(*opened(data, *part, run))) for name, part in parts.items()}
    _, known = opened(data, "train", "texts", run)
    tags = {tag for tag, count in Counter(t for texts in known for t in set(texts)).items() if count >= LEAST}
    pictures, captions = opened(data, "test", "texts", run)
    has = [[text for text in texts if text in tags] for texts in captions]
    rows = [row for row, mine in enumerate(has) if len(mine) == 1]
    names = sorted({has[row][0] for row in rows})
    labels = [names.index(has[row][0]) for row in rows]
    found["zero-shot, tags"] = named(sides, pictures.subset(np.array(rows)), labels, names)
    return found


def letter_scores(run: Run) -> dict[str, dict[str, float]]:
    """Of a run on letters: script and case by their names."""
    sides = load_sides(run.folder)
    pictures, captions = opened("sample:glyphs", "test", "text", run)
    names = [f"{script} {case} letter" for script in ("latin", "greek", "cyrillic") for case in ("small", "capital")]
    first = [next((number for number, name in enumerate(names) if texts[0].startswith(name)), -1) for texts in captions]
    rows = np.flatnonzero(np.array(first) >= 0)
    labels = [first[row] for row in rows]
    return {
        "held-out fonts": retrieval(sides, Links.of(pictures, captions)),
        "zero-shot, script and case": named(sides, pictures.subset(rows), labels, names),
    }


def measured(name: str, kind: str, seed: int, given: argparse.Namespace) -> dict:
    """Train a run, unless it is complete, and score it."""
    kinds, out = JOBS[name], given.out / name
    places = {"data": given.data}
    if "{distinct}" in kinds[kind]:
        places["distinct"] = distinct(Path(given.data), given.out / "distinct")
    for first, words in FIRST.items():
        if f"{{{first}}}" in kinds[kind]:
            places[first] = given.out / f"{first}-{seed}"
            texts = texts_of(Path(given.data), given.out / "texts.txt")
            trained(f"{words.format(data=given.data, texts=texts)} --seed {seed}", places[first])
    folder = out / f"{kind.replace(' ', '-')}-{seed}"
    words = f"{kinds[kind].format(**places)} --seed {seed}"
    trained(words, folder)
    run = Run(folder)
    scores = letter_scores(run) if name == "letters" else emoji_scores(run, given.data)
    command, versions = words.replace(given.data or "-", "DIR"), {"torch": torch.__version__}
    for name, place in places.items():
        command = command.replace(str(place), name.upper()) if name != "data" else command
    return {
        "benchmark": "captions", "table": name, "kind": kind, "seed": seed, "command": command, "steps": run.step,
        "seconds": run.record["seconds"], "scores": scores, "device": device_name(), "versions": versions,
    }  # fmt: skip


def table(lines: list[dict]) -> str:
    """Mean and deviation over seeds of every score, a column a kind."""
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    rows = [f"{'':<42}" + "".join(f"{kind:>24}" for kind in kinds) + f"{'chance':>10}"]
    for part, scores in lines[0]["scores"].items():
        for metric in (metric for metric in scores if f"{metric}, chance" in scores):
            shown = []
            for kind in kinds:
                values = [100 * line["scores"][part][metric] for line in lines if line["kind"] == kind]
                sd = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                shown.append(f"{statistics.mean(values):.1f}{sd} ({len(values)})")
            chance = 100 * scores[f"{metric}, chance"]
            rows.append(f"{part + ', ' + metric:<42}" + "".join(f"{cell:>24}" for cell in shown) + f"{chance:>10.2f}")
    return "\n".join(rows)


def main() -> None:
    """Do the jobs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("name", choices=sorted(JOBS))
    parser.add_argument("--data", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/captions"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    lines = [line for line in kept(given.keep) if line["table"] == given.name]
    for seed in given.seeds:
        for kind in JOBS[given.name]:
            if any((line["kind"], line["seed"]) == (kind, seed) for line in lines):
                continue
            lines.append(measured(given.name, kind, seed, given))
            sys.stdout.write(json.dumps(lines[-1]) + "\n")
            keep(lines[-1], given.keep)
    say(table(lines))


if __name__ == "__main__":
    main()

"""What retrieved passages are worth to a language model: bits per byte of held-out text after none, random, retrieved.

    python benchmarks/ask.py [--quick] [--data DIR] [--out runs/ask] [--seeds 0 1 2] [--keep FILE]

DIR holds CSV files with the columns sentence1 and sentence2, as STS-B and SICK have them, at any depth; every sentence
of six words or more counts once, whatever it is paired with. Without DIR the beginnings of Python's help topics and
docstrings take their place. A tenth is held out for the test and a tenth for validation; from the others the generator
learns, and they are what the index holds. Generators (one a seed) and encoder (one for all) start from nothing.

The generator learns from passages with others in front, as it is asked later: found by the first half of a passage
among those that do not overlap it, for four passages of five; one of five stands alone. That is
learning with retrieval in the window (Guu et al. 2020, "REALM", arXiv 2002.08909, with BM25 in place of a learned
retriever). How passages are found in the test is chosen on the validation documents with the first seed; then the first
half of each test document asks the index, and its second half is scored (`selfsup.search.neighbors`). Progress goes to
standard error, one line of JSON a seed to standard output and to FILE; a seed that stands in FILE is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from kept import keep, kept
from side_by_side import say
from tables import commit
from transformers import PreTrainedTokenizerBase

from selfsup.data.samples import load_sample
from selfsup.data.tokenizer import load_tokenizer, train_tokenizer, without_template
from selfsup.eval.bm25 import bm25
from selfsup.predict import load_generator
from selfsup.progress import Progress
from selfsup.search.index import Index
from selfsup.search.neighbors import RUN, Comparison, HeldOut, Told, runs
from selfsup.search.passages import Cut

PASSAGE = 96  # tokens of a passage
FRONT = 4  # passages in front of another
NEAREST = 12  # of which these are the first that do not overlap it
SHORTEST = 6  # words of a document
ALONE = 5  # every so many passages one has none in front
BETWEEN = "\n\n"
BLOCK = 500  # passages that ask at once
CONTEXT = 160  # tokens of the window
COLUMNS = ("sentence1", "sentence2")
METHODS = ("words", "dense", "hybrid")


@dataclass(frozen=True)
class Size:
    """How much work.

    Attributes:
        documents: most of the data.
        vocabulary: kinds of tokens.
        layers: of the generator.
        width: of it.
        steps: it learns for.
        encoder: steps of the encoder.
        held_out: most documents that are scored.
    """

    documents: int = 20_000
    vocabulary: int = 2048
    layers: int = 2
    width: int = 128
    steps: int = 500
    encoder: int = 100
    held_out: int = 600


QUICK = Size(documents=400, vocabulary=600, layers=1, width=32, steps=20, encoder=5, held_out=10)


def documents(data: str | None, most: int) -> dict[str, list[dict[str, str]]]:
    """Documents for training, validation and test."""
    if data is None:
        texts = load_sample("prose")["train"]["text"]
        found = [" ".join(text.split()[:60]) for text in texts]
    else:
        found = []
        for file in sorted(Path(data).rglob("*.csv")):
            with file.open(encoding="utf-8", newline="") as lines:
                found += [" ".join(row[name].split()) for row in csv.DictReader(lines) for name in COLUMNS]
    found = list({text.lower(): text for text in reversed(found)}.values())
    rows = [{"id": str(number), "text": text} for number, text in enumerate(found) if len(text.split()) >= SHORTEST]
    random.Random(0).shuffle(rows)
    rows = rows[:most]
    few = len(rows) // 10
    return {"test": rows[:few], "validation": rows[few : 2 * few], "train": rows[2 * few :]}


def cut(tokenizer: PreTrainedTokenizerBase, text: str, size: int) -> list[str]:
    """Passages of so many tokens."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [text[start:stop] for start, stop in Cut(size, 0).passages(text, found)]


def with_neighbors(passages: Sequence[tuple[int, str]]) -> list[str]:
    """Passages in a random order, most of them behind those that their first halves find in other documents.

    Args:
        passages: number of the document and text of each.
    """
    texts = [text for _, text in passages]
    halves = [HeldOut("", text).halves()[0] for text in texts]
    asked, keys = bm25(texts, halves)
    found, seen = [], [set(runs(text, RUN)) for text in texts]
    for start in range(0, len(texts), BLOCK):
        scores = (asked[start : start + BLOCK] @ keys.T).toarray()
        near = np.argsort(-scores, axis=1, kind="stable")[:, : 2 * NEAREST]
        for number, others in enumerate(near.tolist(), start):
            own = passages[number][0]
            fit = [one for one in others if passages[one][0] != own and not seen[one] & seen[number]]
            front = [] if number % ALONE == 0 else [texts[one] for one in reversed(fit[:FRONT])]
            found.append(BETWEEN.join([*front, texts[number]]))
    return random.Random(0).sample(found, len(found))


def write(file: Path, texts: Sequence[str]) -> None:
    """One line of JSON a text."""
    file.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts), encoding="utf-8")


def train(command: str, out: Path, seed: int) -> None:
    """Train, unless that is done; said first."""
    words = [*command.split(), "--seed", str(seed), "--out", str(out)]
    if (out / "run.json").exists():
        words = ["resume", str(out)]
    say(f"$ selfsup {shlex.join(words)}")
    subprocess.run([sys.executable, "-m", "selfsup", *words], check=True, stdout=subprocess.DEVNULL)


def prepare(out: Path, data: str | None, size: Size) -> dict[str, list[dict[str, str]]]:
    """Documents, tokenizer, text to learn from, encoder and index, as far as they are not there."""
    rows = documents(data, size.documents)
    out.mkdir(parents=True, exist_ok=True)
    texts = [row["text"] for row in rows["train"]]
    if not (out / "tokenizer").exists():
        made = without_template(train_tokenizer("bpe", size.vocabulary, texts))
        made.save_pretrained(out / "tokenizer")
    tokenizer = load_tokenizer(str(out / "tokenizer"))
    if not (out / "neighbors.jsonl").exists():
        write(out / "documents.jsonl", texts)
        passages = [(number, one) for number, text in enumerate(texts) for one in cut(tokenizer, text, PASSAGE)]
        write(out / "neighbors.jsonl", with_neighbors([one for one in passages if len(one[1].split()) > 1]))
    train(
        f"train contrastive_text --data {out}/documents.jsonl --tokenizer {out}/tokenizer --context 112 --batch 256 "
        f"--layers 1 --heads 4 --width {2 * size.width} --steps {size.encoder}",
        out / "encoder", 0,
    )  # fmt: skip
    if not (out / "index" / "index.json").exists():
        Index.build(out / "encoder", Dataset.from_list(rows["train"]), out / "index", passage=PASSAGE, overlap=0)
    return rows


def generator(out: Path, size: Size, seed: int) -> Path:
    """A trained language model."""
    run = out / f"generator-{seed}"
    train(
        f"train causal_lm --data {out}/neighbors.jsonl --tokenizer {out}/tokenizer --context {CONTEXT} --batch 16 "
        f"--layers {size.layers} --heads 4 --width {size.width} --steps {size.steps}",
        run, seed,
    )  # fmt: skip
    return run


def held_out(rows: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, most: int) -> list[HeldOut]:
    """The first passages of documents."""
    return [HeldOut(row["id"], cut(tokenizer, row["text"], PASSAGE)[0]) for row in rows[:most]]


def described(told: Told) -> dict:
    """What was measured, for a line of JSON."""
    gains = {over: told.gain(over) for over in ("none", "random")}
    return {
        "bits_per_byte": {name: round(told.bits(name), 4) for name in told.nats},
        "saved": {over: [round(gain.mean, 4), round(float(gain.half), 4)] for over, gain in gains.items()},
        "passages": len(told.bytes), "tokens_in_front": round(float(told.shown.mean()), 1),
        "taken_out": int(told.out.sum()), "most_words_shared": int(told.shared.max()),
    }  # fmt: skip


def summary(lines: Sequence[dict]) -> str:
    """Mean and deviation over seeds."""
    found = []
    for name in ("none", "random", "retrieved"):
        values = [line["bits_per_byte"][name] for line in lines]
        sd = statistics.stdev(values) if len(values) > 1 else math.nan
        found.append(f"{name} {statistics.mean(values):.4f} ± {sd:.4f}")
    for over in ("none", "random"):
        values = [line["saved"][over][0] for line in lines]
        sd = statistics.stdev(values) if len(values) > 1 else math.nan
        found.append(f"saved over {over} {statistics.mean(values):.4f} ± {sd:.4f}")
    return ", ".join(found)


def main() -> None:
    """Train what is missing and score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, default=Path("runs/ask"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--k", type=int, default=FRONT)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    size, out = (QUICK, given.out / "quick") if given.quick else (Size(), given.out)
    known = {line["seed"]: line for line in kept(given.keep)}
    rows = prepare(out, given.data, size)
    tokenizer, index, progress = load_tokenizer(str(out / "tokenizer")), Index.load(out / "index"), Progress()
    lines = []
    for seed in given.seeds[:1] if given.quick else given.seeds:
        if seed in known:
            lines.append(known[seed])
            continue
        model = load_generator(generator(out, size, seed))
        chosen = out / "method.json"
        if not chosen.exists():
            asked = held_out(rows["validation"], tokenizer, size.held_out // 3)
            tried = {name: Comparison(index, model, given.k, name).told(asked, progress) for name in METHODS}
            chosen.write_text(json.dumps({name: described(told) for name, told in tried.items()}, indent=1))
            say(chosen.read_text())
        tried = json.loads(chosen.read_text())
        method = min(tried, key=lambda name: tried[name]["bits_per_byte"]["retrieved"])
        asked = held_out(rows["test"], tokenizer, size.held_out)
        told = Comparison(index, model, given.k, method, seed).told(asked, progress)
        line = {"seed": seed, "commit": commit(), "method": method, "k": given.k, **described(told), "tried": tried}
        lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        keep(line, given.keep)
    say(summary(lines))


if __name__ == "__main__":
    main()

"""Vectors of texts beside sentence-transformers: same network, tokenizer, threads and texts, and the same vectors.

    python benchmarks/encode.py [--quick] [--data FOLDER] [--what short mixed] [--size tiny]

`short`: sentences of about 12 tokens; `mixed`: passages of 5 to 500 tokens, as many of them short as long (their
logarithm is uniform). A network with fresh weights and its tokenizer are exported to a folder, which both load.
sentence-transformers sorts by length itself and has the batch size of 32, 64, 128 and 256 that is fastest for these
texts; its bare steps are its network alone on its batches, which are ready. --data is a folder that holds tables with
sentences (`sts`) and text files (`novels_en`); without it, Python's own documentation.
"""

from __future__ import annotations

import csv
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from side_by_side import Side, arguments, highest, in_turn, publish, say

from selfsup.data.samples import load_sample
from selfsup.data.tokenizer import train_tokenizer
from selfsup.encoder import evaluating
from selfsup.runtime import fastest_device
from selfsup.sentence_files import write_sentences
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import SIZES

VOCABULARY, CONTEXT, BATCHES = 16384, 512, (32, 64, 128, 256)
COUNTS = {"short": (4096, 512), "mixed": (384, 64)}  # texts, and with --quick
WORDS = (4, 380)  # in a passage, the fewest and the most


def novels(data: str | None) -> list[str]:
    """Long texts."""
    if data is None:
        return [str(text) for text in load_sample("prose")["train"]["text"]]
    files = sorted(file for file in Path(data).rglob("*.txt") if "novels" in str(file))
    return [file.read_text(encoding="utf-8-sig") for file in files[:8]]


def sentences(data: str | None) -> list[str]:
    """Short texts, in any order."""
    if data is None:
        found = [part.strip() for text in novels(None) for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", text)]
        found = [part for part in found if 4 <= len(part.split()) <= 20]
    else:
        found = []
        for file in sorted(file for file in Path(data).rglob("*.csv") if "sts" in file.parts):
            with open(file, encoding="utf-8", newline="") as lines:
                found += [row[name] for row in csv.DictReader(lines) for name in ("sentence1", "sentence2")]
    random.Random(0).shuffle(found)
    return found


def passages(texts: list[str], count: int) -> list[str]:
    """Pieces of texts, in any order, with from 4 to 380 words."""
    chance, words = random.Random(0), [text.split() for text in texts]
    words = [some for some in words if len(some) >= WORDS[1]] or words
    found = []
    for _ in range(count):
        some = chance.choice(words)
        size = round(WORDS[0] * (WORDS[1] / WORDS[0]) ** chance.random())
        start = chance.randrange(max(len(some) - size, 1))
        found.append(" ".join(some[start : start + size]))
    return found


def exported(texts: list[str], size: str, folder: Path) -> None:
    """A folder with a network of fresh weights and a tokenizer of these texts."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer("bpe", VOCABULARY, texts)
    encoder = TextEncoder.create("encoder", tokenizer, CONTEXT, SIZES[size])
    encoder.save(folder)
    write_sentences(TextEncoder.load(folder), folder)


def best_batch(theirs: SentenceTransformer, texts: list[str]) -> int:
    """The batch size with which it is fastest, by half of the texts."""
    some, tried = texts[: len(texts) // 2 or 1], {}
    theirs.encode(some[:64], show_progress_bar=False)
    for batch in BATCHES:
        began = time.perf_counter()
        theirs.encode(some, batch_size=batch, show_progress_bar=False)
        tried[batch] = time.perf_counter() - began
    say("  sentence-transformers: " + ", ".join(f"batches of {batch} {took:.2f} s" for batch, took in tried.items()))
    return min(tried, key=lambda batch: tried[batch])


def bare(theirs: SentenceTransformer, texts: list[str], batch: int) -> Callable[[], object]:
    """Its network on its own batches, which are ready."""
    network, ordered = theirs[0].auto_model, sorted(texts, key=len, reverse=True)
    chosen = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
    ready = [
        dict(theirs.tokenizer(some, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt"))
        for some in chosen
    ]
    ready = [{name: ids.to(theirs.device) for name, ids in one.items() if name != "token_type_ids"} for one in ready]

    def steps() -> None:
        with evaluating(network):
            for one in ready:
                network(**one)

    return steps


def timed(work: Callable[[], object], about: dict[str, Any]) -> Side:
    """A side that does its work; the first time, which only warms up, its memory is watched."""

    def seconds() -> float:
        if "memory_mb" not in about:
            with highest() as most:
                work()
            about["memory_mb"] = round(most(), 1)
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return Side(seconds, about)


def compare(what: str, texts: list[str], size: str, rounds: int) -> None:
    """One kind of texts."""
    with tempfile.TemporaryDirectory() as folder:
        exported(texts, size, Path(folder))
        encoder = TextEncoder.load(Path(folder))
        encoder.to(fastest_device())
        theirs = SentenceTransformer(folder, device=str(fastest_device()))
        lengths = [min(len(ids), CONTEXT) for ids in encoder.tokenizer(texts, verbose=False)["input_ids"]]
        batch = best_batch(theirs, texts)
        about = {"texts": len(texts), "tokens": sum(lengths), "longest": max(lengths), "size": size, "context": CONTEXT}

        def by_them() -> Any:  # noqa: ANN401 - an array
            return theirs.encode(texts, batch_size=batch, show_progress_bar=False)

        sides = (
            timed(lambda: encoder.encode(texts), {**about}),
            timed(by_them, {**about, "batch": batch}),
            timed(bare(theirs, texts, batch), {}),
        )
        times = in_turn(rounds, *sides)
        difference = float((encoder.encode(texts) - torch.from_numpy(by_them())).abs().max())
    for side, seconds in zip(sides[:2], times[:2], strict=True):
        taken = statistics.median(seconds)
        side.about["texts_per_s"] = round(len(texts) / taken)
        side.about["tokens_per_s"] = round(sum(lengths) / taken)
        side.about["largest_difference_of_vectors"] = difference
    differs = {"batches": "by tokens of about equal length in selfsup, a number of texts in sentence-transformers"}
    packages = ("sentence-transformers", "transformers", "tokenizers")
    publish("encode", what, "sentence-transformers", times, (sides[0], sides[1]), differs, packages)


def main() -> None:
    """Both cases in turn."""
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), help="of the network; tiny if not given")
    given = parser.parse_args()
    for what in given.what or COUNTS:
        count = COUNTS[what][given.quick]
        texts = sentences(given.data)[:count] if what == "short" else passages(novels(given.data), count)
        compare(what, texts, given.size or ("nano" if given.quick else "tiny"), 3 if given.quick else 5)


if __name__ == "__main__":
    main()

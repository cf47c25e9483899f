"""Tokenising text with a given byte-pair tokenizer, beside run_mlm's way with `datasets`.

    python benchmarks/tokens.py [--quick] [--data novels_en] [--what "datasets.map" "one thread"]

`datasets.map`: the lines of the files through the tokenizer, then into windows of 128, each step in two processes, as
run_mlm.py does with --preprocessing_num_workers 2. `one thread`: selfsup with the tokenizer's threads off. Every
measurement is a process of its own with an empty cache; memory is the most of its own that it and its children have
above what it has with the libraries loaded. --data is a folder of text files; without it, Python's own documentation.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

from side_by_side import Side, arguments, highest, in_turn, own_memory, publish

WINDOW, PROCESSES, VOCABULARY = 128, 2, 16384


def family_memory() -> float:
    """Memory of their own of this process and its children, in MB."""
    total = own_memory()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has ended
            continue
        if int(lines["PPid"]) == os.getpid() and "RssAnon" in lines:
            total += int(lines["RssAnon"].split()[0]) / 1024
    return total


def texts_in(folder: str) -> list[str]:
    """The text files of a folder."""
    return [str(file) for file in sorted(Path(folder).rglob("*.txt"))]


def by_selfsup(folder: str, tokenizer: str, scratch: Path) -> int:
    """Prepare the files of a folder; number of tokens."""
    from selfsup.data.source import open_source
    from selfsup.data.tokens import open_tokens

    stores = open_tokens(open_source(folder).parts["train"], None, tokenizer, None, scratch, lambda *_: None)
    return sum(len(store) for store in stores)


def by_datasets(folder: str, tokenizer: str, scratch: Path) -> int:
    """What run_mlm.py does before it trains; number of tokens."""
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    disable_progress_bars()
    ready = AutoTokenizer.from_pretrained(tokenizer)
    lines = load_dataset("text", data_files=texts_in(folder), cache_dir=str(scratch), split="train")

    def tokenized(batch: dict) -> dict:
        return ready(batch["text"], return_special_tokens_mask=True, verbose=False)

    def grouped(batch: dict) -> dict:
        joined = {name: list(chain(*column)) for name, column in batch.items()}
        size = len(joined["input_ids"]) // WINDOW * WINDOW
        return {name: [ids[i : i + WINDOW] for i in range(0, size, WINDOW)] for name, ids in joined.items()}

    rows = lines.map(tokenized, batched=True, num_proc=PROCESSES, remove_columns=["text"])
    rows = rows.map(grouped, batched=True, num_proc=PROCESSES)
    return len(rows) * WINDOW


def measured(who: str, folder: str, tokenizer: str) -> tuple[float, float, int, int]:
    """Seconds, most memory in MB, tokens, and bytes on disk, of one way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if who == "selfsup" else "false"
    way = by_datasets if who == "datasets.map" else by_selfsup
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as small:
        (Path(small) / "one.txt").write_text("One. Two. " * 1000)
        way(small, tokenizer, Path(small))  # imports
        with highest(family_memory) as most:
            began = time.perf_counter()
            tokens = way(folder, tokenizer, Path(scratch))
            seconds = time.perf_counter() - began
        size = sum(
            file.stat().st_size for file in Path(scratch).rglob("*") if file.suffix in (".ids", ".npy", ".arrow")
        )
    return seconds, most(), tokens, size


def compare(what: str, folder: str, tokenizer: str, rounds: int) -> None:
    """Seconds, memory and disk of selfsup and another way."""
    found: dict[str, list[tuple[float, float, int, int]]] = {"selfsup": [], what: []}

    def side(who: str) -> Side:
        def seconds() -> float:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                found[who].append(alone.submit(measured, who, folder, tokenizer).result())
            return found[who][-1][0]

        return Side(seconds)

    sides = side("selfsup"), side(what)
    times = in_turn(rounds, *sides)
    size = sum(Path(file).stat().st_size for file in texts_in(folder))
    for one, runs, seconds in zip(sides, found.values(), times, strict=True):
        one.about |= {
            "seconds": round(statistics.median(seconds), 2),
            "mb_per_s": round(size / 1e6 / statistics.median(seconds), 2),
            "memory_mb": round(statistics.median(run[1] for run in runs)), "tokens": runs[0][2],
            "bytes_on_disk_per_token": round(runs[0][3] / runs[0][2], 2),
        }  # fmt: skip
    differs = {"tokens": "documents with a mark at the end in selfsup, lines between two marks in run_mlm"}
    publish("tokens", what, what, times, sides, differs, ("transformers", "tokenizers", "datasets"))


def main() -> None:
    """All cases in turn."""
    from selfsup.data.samples import load_sample
    from selfsup.data.tokenizer import train_tokenizer

    given = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as prose:
        if not given.data:
            text = "\n".join(map(str, load_sample("prose")["train"]["text"]))
            Path(prose, "prose.txt").write_text(text, encoding="utf-8")
        folder = given.data or prose
        texts = (Path(file).read_text(encoding="utf-8") for file in texts_in(folder))
        train_tokenizer("bpe", VOCABULARY, texts).save_pretrained(scratch)
        for what in given.what or ("datasets.map", "one thread"):
            compare(what, folder, scratch, 1 if given.quick else 3)


if __name__ == "__main__":
    main()

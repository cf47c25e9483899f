"""Fifty times `kill -9` at random moments of changes of an index: built, added to, removed from.

    python benchmarks/index_kills.py [--quick] [--what build add remove]

The addition merges segments and the removal writes one anew, with graphs where FAISS is there. After each kill the
index has to answer as before the change or as after it, and the change, made again, has to come to the same as if it
was never killed. Ends with an error if one differs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from side_by_side import arguments, say

from selfsup.data.tokenizer import train_tokenizer
from selfsup.search import faiss_index
from selfsup.search.index import Index
from selfsup.search.query import search
from selfsup.search.shelf import CONTENTS
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

CHANGES = ("build", "add", "remove")
KIND = "hnsw" if find_spec("faiss") else "exact"
WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
Answers = list[tuple[str, str | None, float]]


def notes(first: int, last: int, turn: int = 0) -> Dataset:
    """Short texts; another `turn`, other words."""
    chance = np.random.default_rng([first, last, turn])
    texts = [" ".join(chance.choice(WORDS, 30)) for _ in range(first, last)]
    return Dataset.from_dict({"id": [f"note {number}" for number in range(first, last)], "text": texts})


def work(change: str, encoder: Path, place: Path, delay: float | None) -> None:
    """Make a change; killed after a delay, if one is given, which begins when an index that is there is opened."""
    faiss_index.LEAST = 100
    index = None if change == "build" else Index.load(place)
    if delay is not None:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    began = time.perf_counter()
    if index is None:
        Index.build(encoder, notes(0, 600), place, kind=KIND, quiet=True)
    elif change == "prepare":
        index.add(notes(600, 640), quiet=True)
    elif change == "add":
        index.add(notes(550, 800, turn=1), quiet=True)
    else:
        index.remove([f"note {number}" for number in range(350)], quiet=True)
    (place.parent / f"{change}.seconds").write_text(str(time.perf_counter() - began))
    os._exit(0)  # a timer that has not gone off yet must not keep us


def answers(place: Path) -> Answers | None:
    """What an index says; None where there is none."""
    if not (place / CONTENTS).exists():
        return None
    index = Index.load(place)
    found = [hit for asked in WORDS[:8] for method in ("dense", "words") for hit in search(index, asked, 5, method)]
    return [(hit.id, hit.text, round(hit.score, 5)) for hit in found]


def child(*values: object) -> int | None:
    """The exit code of `work` in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=work, args=values)
    process.start()
    process.join()
    return process.exitcode


def main() -> None:
    """Kill, look, make the change again, look."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    changes = given.what or CHANGES
    each = 3 if given.quick else -(-50 // len(changes))
    choose, done, wrong = random.Random(0), dict.fromkeys(changes, 0), 0
    ended = dict.fromkeys(("before", "after"), 0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        torch.manual_seed(0)
        tokenizer = train_tokenizer("bpe", 400, [" ".join(WORDS)])
        TextEncoder.create("encoder", tokenizer, 64, Shape(1, 2, 64)).save(root / "encoder")
        start = root / "start"
        assert child("build", root / "encoder", start, None) == 0
        assert child("prepare", root / "encoder", start, None) == 0
        for change in changes:
            straight = root / f"straight-{change}"
            if change != "build":
                shutil.copytree(start, straight)
            before = answers(straight)
            assert child(change, root / "encoder", straight, None) == 0
            after, longest = answers(straight), float((root / f"{change}.seconds").read_text())
            say(f"{change}: takes {longest:.2f} s when it is left alone")
            while done[change] < each:
                place, delay = root / "place", choose.uniform(0, longest)
                shutil.rmtree(place, ignore_errors=True)
                if change != "build":
                    shutil.copytree(start, place)
                code = child(change, root / "encoder", place, delay)
                if code == 0:  # it was done before the time was up
                    continue
                found = answers(place)
                state = "before" if found == before else "after" if found == after else "otherwise"
                if state == "before":
                    again = child(change, root / "encoder", place, None)
                    state += "" if again == 0 and answers(place) == after else ", and otherwise when made again"
                wrong += state not in ended
                ended[state] = ended.get(state, 0) + 1
                done[change] += 1
                say(f"{change} {done[change]}: killed after {delay * 1e3:.0f} ms; answers as {state}")
    said = {"benchmark": "index_kills", "index": KIND, "killed": done, "answers": ended, "differ": wrong}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""Hard negatives beside sentence-transformers' `mine_hard_negatives`: same network, pairs and filter.

    python benchmarks/mine.py [--quick] [--data FOLDER] [--what whole search]

`whole`: pairs of a stretch of text and what follows it, encoded and searched, five negatives each below 0.95 times the
cosine of the positive. `search`: vectors that are there already, 100,000 queries among as many texts, whose memory is
watched; the peer's search is the part of `mine_hard_negatives` behind the encoding, by torch and where faiss is
installed by faiss, whichever is faster. Quality is the share of negatives that both find. --data is a folder with
novels; without it, Python's own documentation.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from encode import exported, novels
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from side_by_side import Side, arguments, highest, in_turn, publish, say

from selfsup.mine import mine
from selfsup.ops.mining import Rule, hard_negatives

NEGATIVES, RULE, RANKS = 5, 0.95, 100
WORDS = (8, 40)  # in a query and in a document
BATCHES = (32, 128)


def pairs_of(data: str | None, count: int) -> list[tuple[str, str]]:
    """Stretches of texts with what follows them."""
    found, (first, second) = [], WORDS
    for text in novels(data):
        words = text.split()
        for start in range(0, len(words) - first - second, first + second):
            found.append((" ".join(words[start : start + first]), " ".join(words[start + first :][:second])))
    random.Random(0).shuffle(found)
    return list(dict(found[: 2 * count]).items())[:count]


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Seconds that it takes."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return seconds


def agreement(ours: list[set[str]], theirs: list[set[str]]) -> float:
    """Share of the peer's negatives that selfsup found too."""
    return round(sum(len(a & b) for a, b in zip(ours, theirs, strict=True)) / max(sum(map(len, theirs)), 1), 4)


def whole(data: str | None, count: int, rounds: int) -> None:
    """From texts to pairs with negatives."""
    pairs = pairs_of(data, count)
    with tempfile.TemporaryDirectory() as scratch:
        place, out = Path(scratch) / "start", Path(scratch) / "out.jsonl"
        exported([text for pair in pairs for text in pair], "nano", place)
        lines = [json.dumps({"query": a, "positive": b}) for a, b in pairs]
        (Path(scratch) / "pairs.jsonl").write_text("\n".join(lines))
        network = SentenceTransformer(str(place), device="cpu")
        rows = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]})

        def ours() -> None:
            mine(place, Path(scratch) / "pairs.jsonl", out, negatives=NEGATIVES, rule=Rule("ratio", RULE), quiet=True)

        def theirs(batch: int) -> Dataset:
            with redirect_stdout(sys.stderr):
                return mine_hard_negatives(
                    rows, network, range_max=RANKS, relative_margin=1 - RULE, num_negatives=NEGATIVES,
                    output_format="labeled-list", batch_size=batch, verbose=False,
                )  # fmt: skip

        tried = {batch: timed(lambda batch=batch: theirs(batch))() for batch in BATCHES}
        batch = min(tried, key=lambda size: tried[size])
        say(f"sentence-transformers: {tried}")
        sides = Side(timed(ours)), Side(timed(lambda: theirs(batch)))
        times = in_turn(rounds, *sides)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        mined = {(row["query"], row["positive"]): set(row["negative"]) for row in lines}
        found = theirs(batch)  # rows with too few negatives are left out there
        both = [
            (mined[anchor, texts[0]], set(texts[1:]))
            for anchor, texts in zip(found["anchor"], found["positive"], strict=True)
        ]
    about = {"pairs": len(pairs), "negatives": NEGATIVES, "rule": f"ratio {RULE}", "ranks": RANKS, "network": "nano"}
    sides[0].about |= about | {"agreement": agreement([a for a, _ in both], [b for _, b in both])}
    sides[1].about |= about | {"batch": batch, "rows_with_enough": len(found)}
    differs = {"too few negatives": "the row keeps those it has in selfsup, and is left out by the peer"}
    publish("mine", "whole", "sentence-transformers", times, sides, differs, ("sentence-transformers",))


def search(count: int, rounds: int) -> None:
    """Vectors to numbers of negatives."""
    width = 128
    generator = torch.Generator().manual_seed(0)
    queries = F.normalize(torch.randn(count, width, generator=generator), dim=1)
    documents = F.normalize(queries + 0.7 * torch.randn(count, width, generator=generator) / width**0.5, dim=1)
    own, known, ids = (queries * documents).sum(1), torch.arange(count)[:, None], torch.arange(count)
    network = Ready(queries, documents)
    names = {"anchor": [f"q{row}" for row in range(count)], "positive": [f"d{row}" for row in range(count)]}
    rows = Dataset.from_dict(names)

    def ours() -> torch.Tensor:
        parts = [
            hard_negatives(
                queries[at : at + 2048], documents, own[at : at + 2048], known[at : at + 2048], ids, NEGATIVES,
                Rule("ratio", RULE, last=RANKS),
            ).index
            for at in range(0, count, 2048)
        ]  # fmt: skip
        return torch.cat(parts)

    def theirs(faiss: bool) -> Dataset:
        with redirect_stdout(sys.stderr):
            return mine_hard_negatives(
                rows, network, range_max=RANKS, relative_margin=1 - RULE, num_negatives=NEGATIVES,  # type: ignore[arg-type]
                output_format="labeled-list", verbose=False, use_faiss=faiss, faiss_batch_size=2048,
            )  # fmt: skip

    ways = [False] + [True] * (find_spec("faiss") is not None)
    tried = {way: timed(lambda way=way: theirs(way))() for way in ways}
    faiss = min(tried, key=lambda way: tried[way])
    say(f"the peer, by faiss or not: {tried}")
    sides = Side(timed(ours)), Side(timed(lambda: theirs(faiss)))
    times = in_turn(rounds, *sides)
    used = []
    for work in (ours, lambda: theirs(faiss)):
        with highest() as most:
            work()
        used.append(round(most()))
    index, found = ours().tolist(), theirs(faiss)
    both = [
        ({f"d{number}" for number in index[int(anchor[1:])]}, set(texts[1:]))
        for anchor, texts in zip(found["anchor"], found["positive"], strict=True)
    ]
    about = {"queries": count, "texts": count, "width": width, "negatives": NEGATIVES, "ranks": RANKS}
    sides[0].about |= about | {"memory_mb": used[0], "agreement": agreement([a for a, _ in both], [b for _, b in both])}
    sides[1].about |= about | {"memory_mb": used[1], "faiss": faiss}
    publish("mine", "search", "sentence-transformers", times, sides, {}, ("sentence-transformers",))


class Ready:
    """Stands where the peer wants a network: gives vectors that are there already."""

    def __init__(self, queries: torch.Tensor, documents: torch.Tensor) -> None:
        self.queries, self.documents, self.device = queries, documents, torch.device("cpu")

    def encode_query(self, texts: list[str], **settings: object) -> np.ndarray:
        """(Q, D): `q7` has the eighth vector."""
        return self.queries[[int(text[1:]) for text in texts]].numpy()

    def encode_document(self, texts: list[str], **settings: object) -> np.ndarray:
        """(N, D)."""
        return self.documents[[int(text[1:]) for text in texts]].numpy()

    def similarity(self, first: np.ndarray, second: torch.Tensor) -> torch.Tensor:
        """Cosines of vectors of length 1."""
        return torch.as_tensor(first) @ second.T

    def similarity_pairwise(self, first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        """The same of rows with each other."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(1)

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.queries.shape[1]


def main() -> None:
    """Both cases in turn."""
    given = arguments(__doc__).parse_args()
    for what in given.what or ("whole", "search"):
        if what == "whole":
            whole(given.data, 256 if given.quick else 4096, 1 if given.quick else 3)
        else:
            search(2000 if given.quick else 100_000, 1 if given.quick else 2)


if __name__ == "__main__":
    main()

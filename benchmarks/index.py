"""The index beside plain FAISS: the same vectors, queries, and settings of the graph.

    python benchmarks/index.py [--quick] [--data FOLDER] [--what exact hnsw flat] [--sizes 1000 10000 100000 1000000]

`exact` and `flat` stand beside IndexFlatIP, `hnsw` beside IndexHNSWFlat with the same M, efConstruction and efSearch.
The vectors are made up: 384 numbers, in clusters of about a hundred around centers that lie anywhere on the sphere,
each center plus noise of 0.8 of its length in any direction, scaled to length 1; queries are further ones of these
clusters, asked one at a time for ten rows. `floor_ratio` is the time of a query over that of one pass over the memory
of the vectors (torch's sum of them, the best of five). Memory is what a fresh process takes to open the index and ask
20 queries, without mapped pages. With --data what was built stays in FOLDER, with its times, and is not built again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch
from side_by_side import Side, arguments, in_turn, own_memory, publish, say

from selfsup.progress import Progress
from selfsup.search.faiss_index import BREADTH, LINKS
from selfsup.search.filters import allowed
from selfsup.search.index import Index
from selfsup.search.merging import settled
from selfsup.search.query import nearest_rows
from selfsup.search.segment import VECTORS, TableWriter, schema_of
from selfsup.search.shelf import Contents, Named, Shelf

WIDTH, CLUSTER, NOISE, K = 384, 100, 0.8, 10
SIZES = (1000, 10_000, 100_000, 1_000_000)
BLOCK = 50_000  # vectors that are made at once


def made_up(count: int, centers: int, part: int) -> np.ndarray:
    """(count, WIDTH) of length 1; another `part`, others of the same clusters."""
    middle = np.random.default_rng(0).standard_normal((centers, WIDTH), np.float32)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    chance = np.random.default_rng([1, part])
    noise = chance.standard_normal((count, WIDTH), np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    noise += middle[chance.integers(0, centers, count)]
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def vectors_of(folder: Path, count: int) -> np.ndarray:
    """(count, WIDTH) in a file, mapped into memory."""
    file = folder / "given"
    if not file.exists():
        with open(folder / "given.new", "wb") as target:
            for part, start in enumerate(range(0, count, BLOCK)):
                target.write(made_up(min(BLOCK, count - start), max(count // CLUSTER, 1), part).data)
        (folder / "given.new").rename(file)
    return np.memmap(file, np.float32, "c", shape=(count, WIDTH))


def build_ours(folder: Path, vectors: np.ndarray, kind: str) -> None:
    """What `Index.build` does behind the encoder: rows and vectors are written, settled, and put in force."""
    folder.mkdir()
    shelf, named = Shelf(folder), Named("segment-000001", len(vectors))
    (folder / named.name).mkdir()
    with open(folder / named.name / VECTORS, "wb") as target, TableWriter(folder / named.name, schema_of({})) as table:
        for start in range(0, len(vectors), BLOCK):
            some = vectors[start : start + BLOCK]
            target.write(some.data)
            table.write_table(pa.table({"id": [str(number) for number in range(start, start + len(some))]}))
    about = {"kind": "image", "width": WIDTH, "index": kind}  # no words are counted of pictures
    shelf.put(settled(shelf, Contents(about, (named,)), [named], Progress(False))[0])


def build_theirs(vectors: np.ndarray, kind: str) -> Any:  # noqa: ANN401 - an index of FAISS
    """Plain FAISS."""
    if kind != "hnsw":
        index = faiss.IndexFlatIP(WIDTH)
    else:
        index = faiss.IndexHNSWFlat(WIDTH, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BREADTH
    index.add(np.asarray(vectors))
    return index


def seconds_of(file: Path, work: Callable[[], object]) -> float:
    """How long it takes; if it has been done already, how long it took."""
    if not file.exists():
        began = time.perf_counter()
        work()
        file.write_text(json.dumps(time.perf_counter() - began))
    return json.loads(file.read_text())


def open_ours(folder: Path) -> Callable[[np.ndarray], list[int]]:
    """What gives the rows nearest to a query."""
    index = Index(folder, None)  # type: ignore[arg-type] - queries are vectors already

    def ask(query: np.ndarray) -> list[int]:
        found = nearest_rows(index, torch.from_numpy(query), allowed(index.segments, []), K)
        return [row for (_, row), _ in found]

    return ask


def open_theirs(file: Path, effort: int | None) -> Callable[[np.ndarray], list[int]]:
    """The same of FAISS."""
    index = faiss.read_index(str(file))
    params = None if effort is None else faiss.SearchParametersHNSW(efSearch=effort)
    return lambda query: index.search(query[None], K, params=params)[1][0].tolist()


def memory(place: Path, effort: int | None, queries: np.ndarray) -> float:
    """Memory that opening an index and asking it take, in MB; in a fresh process."""
    before = own_memory()
    ask = open_ours(place) if place.is_dir() else open_theirs(place, effort)
    for query in queries[:20]:
        ask(query)
    return own_memory() - before


def fresh(place: Path, effort: int | None, queries: np.ndarray) -> float:
    """The same from here; the process is forked from one that has imported all and opened nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faiss", "selfsup.search.query", "side_by_side"])
    with ProcessPoolExecutor(1, context) as pool:
        return round(pool.submit(memory, place, effort, queries).result(), 1)


def single(ask: Callable[[np.ndarray], object], queries: np.ndarray) -> Callable[[], float]:
    """Seconds of a query, the median of all, each asked alone."""

    def seconds() -> float:
        taken = []
        for query in queries:
            began = time.perf_counter()
            ask(query)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    return seconds


def one_pass(vectors: np.ndarray) -> Callable[[], float]:
    """Seconds of the fastest of five sums."""
    tensor = torch.from_numpy(np.asarray(vectors))

    def seconds() -> float:
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            tensor.sum()
            taken.append(time.perf_counter() - began)
        return min(taken)

    return seconds


def recall(ask: Callable[[np.ndarray], list[int]], queries: np.ndarray, exact: np.ndarray) -> float:
    """Share of the ten nearest rows that are found."""
    right = [len({*ask(query)} & {*rows.tolist()}) for query, rows in zip(queries, exact, strict=True)]
    return round(sum(right) / exact.size, 4)


def compare(folder: Path, count: int, kind: str, rounds: int, asked: int) -> None:
    """One size of one kind of index."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = vectors_of(folder, count)
    queries = made_up(asked, max(count // CLUSTER, 1), 1 << 20)
    exact = faiss.knn(queries, np.asarray(vectors), K, faiss.METRIC_INNER_PRODUCT)[1]
    ours, theirs = folder / f"ours-{kind}", folder / f"theirs-{kind}"

    def anew() -> None:
        shutil.rmtree(ours, ignore_errors=True)
        build_ours(ours, vectors, kind)

    made: list[Any] = []
    if not theirs.exists():
        (folder / f"theirs-{kind}.json").unlink(missing_ok=True)
    built = [
        seconds_of(folder / f"ours-{kind}.json", anew),
        seconds_of(folder / f"theirs-{kind}.json", lambda: made.append(build_theirs(vectors, kind))),
    ]
    if made:
        faiss.write_index(made.pop(), f"{theirs}.new")
        Path(f"{theirs}.new").rename(theirs)
    say(f"{count} {kind}: built in {built[0]:.1f} s, FAISS in {built[1]:.1f} s")
    segment = Index(ours, None).segments[0]  # type: ignore[arg-type]
    effort = None if segment.finder is None else segment.finder.effort
    effort = 16 if kind == "hnsw" and effort is None else effort  # no graph of ours: FAISS with the least
    asks = open_ours(ours), open_theirs(theirs, effort)
    sides = Side(single(asks[0], queries)), Side(single(asks[1], queries))
    times = in_turn(rounds, *sides, Side(one_pass(vectors)))
    about = {"vectors": count, "width": WIDTH, "k": K}
    if kind == "hnsw":
        about |= {"M": LINKS, "efConstruction": BREADTH, "efSearch": effort}
    for side, ask, place, seconds, taken in zip(sides, asks, (ours, theirs), built, times[:2], strict=True):
        side.about |= about | {
            "query_ms": round(1e3 * statistics.median(taken), 3), "recall": recall(ask, queries, exact),
            "memory_mb": fresh(place, effort, queries), "build_s": round(seconds, 2),
        }  # fmt: skip
    sides[0].about["pass_ms"] = round(1e3 * statistics.median(times[2]), 3)
    differs = {"vectors": "in a mapped file, beside a table of rows on the disk; in memory in FAISS"}
    if kind == "hnsw":
        differs["efSearch"] = "twice k at least in selfsup, which also measures recall at build"
    publish("index", f"{count} {kind}", "faiss", times, sides, differs, ("faiss-cpu",))
    if kind == "hnsw":
        publish("index", f"{count} hnsw build", "faiss", [[built[0]], [built[1]]], sides, differs, ("faiss-cpu",))


def given() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of vectors")
    return parser.parse_args()


def main() -> None:
    """Each size of each kind."""
    asked = given()
    faiss.omp_set_num_threads(torch.get_num_threads())
    with tempfile.TemporaryDirectory() as scratch:
        for size in asked.sizes or ((100_000,) if asked.quick else SIZES):
            for kind in asked.what or ("exact", "hnsw"):
                rounds, queries = (1, 50) if asked.quick else (5, 200)
                compare(Path(asked.data or scratch) / str(size), size, kind, rounds, queries)


if __name__ == "__main__":
    main()

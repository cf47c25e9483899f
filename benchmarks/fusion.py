"""Search by words, by vectors and by both, on collections that people judged.

    python benchmarks/fusion.py --data DIR/cranfield=RUN ... [--keep FILE]

Each DIR/NAME is a collection as BEIR has them (corpus.jsonl, queries.jsonl, qrels.tsv), and RUN a run of a text
objective, which is indexed as by `search build`. Every judged query is asked by each method, and BM25 over whole
documents (`eval --task retrieval`) stands beside. One line of JSON a run, nDCG@10 and MRR@10 of each method, goes to
standard output and to the end of FILE; a run that is there is not asked again. The table goes to standard error.

"plain fusion" is reciprocal rank fusion of the same two rankings with equal weights and without feedback.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from kept import keep, kept
from side_by_side import device_name, say

from selfsup.eval.bm25 import bm25, ranked
from selfsup.eval.collection import Collection, open_collection
from selfsup.ops import ranking
from selfsup.search.hits import hits_of
from selfsup.search.index import Index
from selfsup.search.query import DEPTH, search, vector_of
from selfsup.search.ranking import by_words, document_of, fused, nearest_rows

METHODS = ("words", "dense", "plain fusion", "hybrid")
K = 10


def asked(index: Index, query: str, method: str) -> list[str]:
    """Ids of the documents found, best first."""
    if method != "plain fusion":
        return [hit.id for hit in search(index, query, K, method)]  # type: ignore[arg-type]
    there, unit = [one.there for one in index.segments], document_of(index)
    words = by_words(index, query, there, DEPTH, unit)
    dense = nearest_rows(index, vector_of(index, query), there, DEPTH)
    return [hit.id for hit in hits_of(index, fused([words, dense], (1, 1), unit)[:K])]


def scores(collection: Collection, order: torch.Tensor) -> dict[str, float]:
    """Of a ranking (Q, k) of rows of documents, -1 where there is none."""
    relevance = collection.relevance(order)
    return {
        f"nDCG@{K}": float(ranking.ndcg(relevance, collection.gains(), K).mean()),
        f"MRR@{K}": float(ranking.reciprocal_rank(relevance, K).mean()),
    }


def measure(folder: Path, run: Path) -> dict[str, dict[str, float]]:
    """Scores of each method."""
    collection = open_collection(folder)
    names = [json.loads(line)["_id"] for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = {str(name): row for row, name in enumerate(names)}
    found = {"BM25 of documents": scores(collection, ranked(*bm25(collection.documents, collection.queries), K))}
    with tempfile.TemporaryDirectory() as place:
        index, change = Index.build(run, folder / "corpus.jsonl", Path(place) / "index", quiet=True)
        say(f"{folder.name} {run.name}: {change.added:,} documents, {change.passages:,} passages")
        for method in METHODS:
            order = torch.full((len(collection.queries), K), -1)
            for number, query in enumerate(collection.queries):
                hits = [rows[name] for name in asked(index, query, method)]
                order[number, : len(hits)] = torch.tensor(hits, dtype=torch.int64)
            found[method] = scores(collection, order)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", required=True, metavar="DIR=RUN")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    lines = kept(given.keep)
    for folder, run in ([Path(part) for part in pair.split("=")] for pair in given.data):
        if any((line["data"], line["run"]) == (folder.name, run.name) for line in lines):
            continue
        line = {
            "benchmark": "fusion", "data": folder.name, "run": run.name, "scores": measure(folder, run),
            "device": device_name(), "versions": {"torch": torch.__version__},
        }  # fmt: skip
        lines.append(line)
        sys.stdout.write(json.dumps(line) + "\n")
        keep(line, given.keep)
    for name in dict.fromkeys(line["data"] for line in lines):
        of_data = [line["scores"] for line in lines if line["data"] == name]
        for method in of_data[0]:
            values = [one[method][f"nDCG@{K}"] for one in of_data]
            spread = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            say(f"{name:<12}{method:<20}nDCG@{K} {statistics.mean(values):.3f}{spread} over {len(values)} runs")


if __name__ == "__main__":
    main()

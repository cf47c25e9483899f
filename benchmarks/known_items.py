"""What the tables `titles` and `spans` of benchmarks/tables.py train on and are scored by.

    python benchmarks/known_items.py titles|spans --data DIR --out DIR

--data is a collection as BEIR has them (corpus.jsonl, queries.jsonl, qrels.tsv). Written are `pairs/`, of all documents
but a tenth: titles with their texts (`titles`), or whole texts (`spans`); `known/`, a collection whose queries are the
titles of that tenth, or the first halves of its texts, and whose documents are all texts, or all second halves: what
the same task is worth on documents that were not seen; and `judged/`, the collection as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

TENTH = 10


def write(file: Path, rows: list[dict[str, str]]) -> None:
    """One line of JSON a row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def halves(text: str) -> tuple[str, str]:
    """The first half of the words of a text, and the second."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def main() -> None:
    """Write the three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kind", choices=("titles", "spans"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = (given.data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = [document for document in map(json.loads, lines) if document["text"].strip()]
    if given.kind == "titles":
        documents = [document for document in documents if document["title"].strip()]
        pairs = [{"query": document["title"], "positive": document["text"]} for document in documents]
        asked = [(pair["query"], pair["positive"]) for pair in pairs]
    else:
        pairs = [{"text": f"{document['title']} {document['text']}".strip()} for document in documents]
        asked = [halves(pair["text"]) for pair in pairs]
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    held_out = sorted(order[: len(pairs) // TENTH])
    seen = sorted(order[len(pairs) // TENTH :])
    write(given.out / "pairs" / "train.jsonl", [pairs[number] for number in seen])
    write(given.out / "pairs" / "valid.jsonl", [pairs[number] for number in held_out])
    known = given.out / "known"
    write(known / "corpus.jsonl", [{"_id": str(number), "text": text} for number, (_, text) in enumerate(asked)])
    write(known / "queries.jsonl", [{"_id": str(number), "text": asked[number][0]} for number in held_out])
    (known / "qrels.tsv").write_text("".join(f"{number}\t{number}\t1\n" for number in held_out), encoding="utf-8")
    (given.out / "judged").mkdir(exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        shutil.copy(given.data / name, given.out / "judged")
    sys.stdout.write(f"{len(seen):,} to train on, {len(held_out):,} held out\n")


if __name__ == "__main__":
    main()

"""Hard negatives for pairs: near texts that do not belong to the query, by an encoder, as a column of the pairs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.documents import whole_documents
from selfsup.data.pairs import Group, groups, lacking
from selfsup.data.source import Data, open_source
from selfsup.data.store import fingerprint
from selfsup.embedding import content_of, fresh_file
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.ops.mining import Rule, hard_negatives
from selfsup.progress import Progress
from selfsup.run import check_writable
from selfsup.runtime import fastest_device
from selfsup.text_encoder import TextEncoder
from selfsup.text_reading import Role
from selfsup.vectors import Blocks, Span
from selfsup.word_vectors import WordVectors

log = logging.getLogger("selfsup")
BLOCK = 8192  # texts that are encoded, or rows that are searched for, before they are written
AT_ONCE = 2048  # rows of scores in memory


@dataclass(frozen=True)
class Mined:
    """What was found.

    Attributes:
        rows: number of pairs.
        texts: number of texts that were searched.
        negatives: found for a pair, on average.
        cosine: of these, on average.
        positive_cosine: of the pairs, on average.
        dropped: share of the near texts that the rule left out.
        without: share of the pairs for which there is none.
    """

    rows: int
    texts: int
    negatives: float
    cosine: float
    positive_cosine: float
    dropped: float
    without: float

    def __str__(self) -> str:
        return (
            f"{self.rows:,} pairs, {self.texts:,} texts: {self.negatives:.2f} negatives a pair (none for "
            f"{self.without:.1%}), cosine {self.cosine:.3f}, that of the positives {self.positive_cosine:.3f}; "
            f"{self.dropped:.1%} of the near texts left out as likely positives"
        )


@dataclass(frozen=True)
class Pairs:
    """Pairs as numbers of distinct texts.

    Attributes:
        rows: as they were given.
        queries: distinct ones.
        documents: distinct texts; the first `candidates` of them may be negatives.
        candidates: how many.
        query: (N,) number of the query of each row.
        positive: (N,) number of its positive.
        known: (Q, P) numbers of the documents that belong to each query, -1 for none.
    """

    rows: list[Group]
    queries: list[str]
    documents: list[str]
    candidates: int
    query: Tensor
    positive: Tensor
    known: Tensor

    @classmethod
    def of(cls, rows: list[Group], corpus: Sequence[str] | None) -> Pairs:
        """Pairs, and the texts to search: a corpus, or all positives and negatives of the pairs."""
        given = [text for row in rows for text in (row.positive, *row.negatives)] if corpus is None else corpus
        texts = dict.fromkeys(given)
        candidates = len(texts)
        texts |= dict.fromkeys(row.positive for row in rows)
        place = {text: number for number, text in enumerate(texts)}
        names = {text: number for number, text in enumerate(dict.fromkeys(row.query for row in rows))}
        belongs: list[set[int]] = [{place[text]} if text in place else set() for text in names]
        for row in rows:
            belongs[names[row.query]].add(place[row.positive])
        known = np.full((len(names), max(map(len, belongs))), -1, np.int64)
        for number, some in enumerate(belongs):
            known[number, : len(some)] = sorted(some)
        query, positive = ([of[text] for text in column] for of, column in (
            (names, [row.query for row in rows]), (place, [row.positive for row in rows]),
        ))  # fmt: skip
        return cls(
            rows, list(names), list(texts), candidates, torch.tensor(query), torch.tensor(positive),
            torch.from_numpy(known),
        )  # fmt: skip


def _read(data: Data, corpus: Data | None, columns: dict[str, str] | None) -> tuple[Pairs, str]:
    """The pairs of a source's training part with the texts to search, and a fingerprint of both.

    Raises:
        UserError: no pairs, or no texts.
    """
    source = open_source(data, columns)
    for column in ("query", "positive"):
        source.require(column)
    part = source.parts["train"]
    bad: list[tuple[int, str, str]] = []
    rows = list(groups(part.table, bad))
    if said := lacking(bad, len(part)):
        log.warning(said)
    texts, identity = None, [part.identity]
    if corpus is not None:
        found = open_source(corpus)
        found.require("text")
        every = (text for one in found.parts.values() for text in whole_documents(one.table, []))
        texts = [text for text in every if text.strip()]
        identity += [one.identity for one in found.parts.values()]
    if any(row.score is not None for row in rows):
        log.warning("the pairs have scores: contrastive_text goes by these, and reads negatives only without them")
    if len(rows) < 2:
        raise UserError(f"{source.name}: {len(rows)} pairs; two or more are needed")
    return Pairs.of(rows, texts), fingerprint(identity)


def _encoded(encoder: Encoder, texts: list[str], role: Role, blocks: Blocks, progress: Progress) -> Tensor:
    """(N, D) of length 1, encoded block by block; those that are done already are read."""
    with blocks.held():
        for number in blocks.missing():
            span = blocks.spans[number]
            some = texts[span.start : span.stop]
            found = encoder.encode(some, role) if isinstance(encoder, TextEncoder) else encoder.encode(some)
            blocks.write(number, F.normalize(found, dim=1).nan_to_num(0.0).numpy())
            progress.part(f"encoding, {role}", blocks.done(), len(texts))
        return torch.from_numpy(np.concatenate([vectors for _, vectors in blocks.read()]))


def _spans(rows: int) -> list[Span]:
    return [Span("", start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


def _search(pairs: Pairs, queries: Tensor, documents: Tensor, count: int, rule: Rule, span: Span) -> np.ndarray:
    """(n, 2 K + 3) float64 for some rows: negatives, their cosines, that of the positive, texts looked at, left out."""
    found = []
    for start in range(span.start, span.stop, AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, span.stop))
        asked = queries[pairs.query[rows]]
        own = (asked * documents[pairs.positive[rows]]).sum(1)
        some = hard_negatives(
            asked, documents[: pairs.candidates], own, pairs.known[pairs.query[rows]], torch.arange(pairs.candidates),
            count, rule,
        )  # fmt: skip
        columns = [some.index, some.cosines, own[:, None], some.looked_at[:, None], some.left_out[:, None]]
        found.append(torch.cat([column.double() for column in columns], 1))
    return torch.cat(found).numpy()


def _written(pairs: Pairs, blocks: Blocks, count: int, file: Path) -> Mined:
    """Write the pairs with their negatives, a line each, and sum up."""
    found = np.concatenate([block for _, block in blocks.read()])
    index, cosines = found[:, :count].astype(np.int64), found[:, count : 2 * count]
    with fresh_file(file) as fresh, open(fresh, "w", encoding="utf-8") as target:
        for row, numbers in zip(pairs.rows, index.tolist(), strict=True):
            line: dict[str, object] = {"query": row.query, "positive": row.positive}
            if row.score is not None:
                line["score"] = row.score
            line["negative"] = [pairs.documents[number] for number in numbers if number >= 0]
            target.write(json.dumps(line, ensure_ascii=False) + "\n")
    there = index >= 0
    return Mined(
        rows=len(index),
        texts=pairs.candidates,
        negatives=float(there.sum(1).mean()),
        cosine=float(cosines[there].mean()) if there.any() else 0.0,
        positive_cosine=float(found[:, 2 * count].mean()),
        dropped=float(found[:, -1].sum() / max(found[:, -2].sum(), 1)),
        without=float((~there.any(1)).mean()),
    )


def mine(
    place: str | os.PathLike,
    data: Data,
    out: str | os.PathLike,
    corpus: Data | None = None,
    columns: dict[str, str] | None = None,
    negatives: int = 5,
    rule: Rule | None = None,
    quiet: bool = False,
) -> Mined:
    """Write pairs as .jsonl with a column `negative`: near texts that are not known to belong to the query.

    Only the training part of the pairs is looked at. Vectors and what was found are kept in a folder beside the file
    until all is done: the same call goes on where an earlier one was stopped. No more than about `AT_ONCE` x 4096
    scores are in memory at once.

    Args:
        place: a run, an exported folder, or a hub id, that encodes text.
        data: pairs, with the columns `query` and `positive`.
        out: file to write.
        corpus: texts to search, in the column `text`; the positives and negatives of all pairs when None.
        columns: meaning -> name of the user's column of pairs.
        negatives: most for a pair.
        rule: which near texts may be negatives.
        quiet: no progress on the terminal.

    Raises:
        UserError: no pairs, an encoder of pictures, a file that cannot be written, or a folder beside it that is of
            other texts, another encoder or another rule.
    """
    file, rule = Path(out), rule or Rule()
    if file.suffix != ".jsonl":
        raise UserError(f"--out {file}: allowed is a name that ends in .jsonl")
    if rule.first >= rule.last:
        raise UserError(f"--ranks {rule.first} {rule.last}: the second has to be larger, such as 0 100")
    check_writable(file)
    encoder, progress = load_encoder(place).to(fastest_device()), Progress(not quiet)
    if not isinstance(encoder, TextEncoder | WordVectors):
        raise UserError(f"{place} encodes pictures; give a run on text, such as one of contrastive_text")
    pairs, identity = _read(data, corpus, columns)
    key = {"encoder": content_of(encoder), "data": identity, "block": BLOCK}
    folder = file.with_name(file.name + ".part")
    wanted: dict[Role, list[str]] = {"query": pairs.queries, "document": pairs.documents}
    queries, documents = (
        _encoded(encoder, texts, role, Blocks(folder / role, _spans(len(texts)), key), progress)
        for role, texts in wanted.items()
    )
    settings = {"negatives": negatives, **asdict(rule)}
    blocks = Blocks(folder / "negatives", _spans(len(pairs.rows)), {**key, "settings": settings})
    with blocks.held():
        for number in blocks.missing():
            blocks.write(number, _search(pairs, queries, documents, negatives, rule, blocks.spans[number]))
            progress.part("searching negatives", blocks.done(), len(pairs.rows))
        found = _written(pairs, blocks, negatives, file)
    shutil.rmtree(folder, ignore_errors=True)
    return found

"""Questions to an index: the nearest rows by vectors, by words, or by both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.decode import BROKEN, open_picture
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.ops.topk import largest, top_k
from selfsup.search.filters import Condition, allowed
from selfsup.search.index import Index
from selfsup.search.postings import scores as word_scores
from selfsup.search.writing import file_stamp
from selfsup.text_encoder import TextEncoder

Method = Literal["hybrid", "dense", "words"]
Place = tuple[int, int]  # segment, row
CONSTANT = 60  # of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009, section 2)
DEPTH = 100  # rows of each ranking that are fused
LONGEST_NAME = 4096  # characters of a text that may be the name of a file
BLOCK = 1 << 16  # rows that are multiplied with one query at once


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        id: of the document.
        score: what it was ranked by: a cosine, a BM25 score, or a sum of reciprocal ranks.
        text: the passage of it that fits best; None for a picture.
        start: first character of the passage.
        stop: character after its last.
        source: file of the document; None where there is none.
        state: of that file since it was indexed: `same`, `changed` or `gone`; None where there is no file.
        about: further columns of the document.
    """

    id: str
    score: float
    text: str | None
    start: int
    stop: int
    source: str | None
    state: str | None
    about: dict[str, Any]


def vector_of(index: Index, asked: Any) -> Tensor:  # noqa: ANN401 - a text or a picture
    """(D,) of length 1."""
    encoder, width = index.encoder, index.contents.about["width"]
    if isinstance(encoder, ImageEncoder):
        found = encoder.encode([asked])
    elif isinstance(encoder, TextEncoder):
        found = encoder.encode([asked], "query")
    else:
        found = encoder.encode([asked])
    return F.normalize(found[0, :width], dim=0)


def nearest_rows(index: Index, vector: Tensor, there: Sequence[np.ndarray], k: int) -> list[tuple[Place, float]]:
    """The k rows with the largest cosines, largest first; exact.

    Args:
        index: to search.
        vector: (D,) of length 1.
        there: rows of each segment that count.
        k: how many.
    """
    found = []
    for number, (segment, some) in enumerate(zip(index.segments, there, strict=True)):
        keys = torch.from_numpy(np.asarray(segment.vectors))
        mask = None if some.all() else torch.from_numpy(some)
        values, rows = top_k(vector[None], keys, k, BLOCK, allowed=mask)
        found += [((number, row), value) for row, value in zip(rows[0].tolist(), values[0].tolist(), strict=True)]
    kept = [one for one in found if one[1] > -torch.inf]
    return sorted(kept, key=lambda one: -one[1])[:k]


def by_words(index: Index, asked: str, there: Sequence[np.ndarray], k: int) -> list[tuple[Place, float]]:
    """The k rows with the largest BM25 scores, of those that share a word with a query."""
    postings = {number: one.postings for number, one in enumerate(index.segments) if one.postings is not None}
    found = []
    of_each = word_scores([*postings.values()], [there[number] for number in postings], asked)
    for number, score in zip(postings, of_each, strict=True):
        kept = torch.from_numpy(np.flatnonzero(score > 0))
        if len(kept):
            values, place = largest(torch.from_numpy(score)[kept][None], min(k, len(kept)))
            rows = kept[place[0]].tolist()
            found += [((number, row), value) for row, value in zip(rows, values[0].tolist(), strict=True)]
    return sorted(found, key=lambda one: -one[1])[:k]


def fused(rankings: Iterable[Sequence[tuple[Place, float]]]) -> list[tuple[Place, float]]:
    """Places by the sum of 1 / (60 + rank) over rankings (Cormack, Clarke, Büttcher 2009, "Reciprocal Rank Fusion")."""
    total: dict[Place, float] = {}
    for ranking in rankings:
        for rank, (place, _) in enumerate(ranking, 1):
            total[place] = total.get(place, 0.0) + 1 / (CONSTANT + rank)
    return sorted(total.items(), key=lambda one: -one[1])


def _asked_text(index: Index, asked: object) -> str:
    """The text of a question, which may be the name of a file.

    Raises:
        UserError: it is empty, or the file cannot be read.
    """
    if not isinstance(asked, str | os.PathLike):
        raise UserError(f"{index.shelf.folder} holds texts: ask with a text or a file of one")
    text = os.fspath(asked)
    if len(text) < LONGEST_NAME and Path(text).is_file():
        try:
            text = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{text} cannot be read as text: {error}") from error
    if not text.strip():
        raise UserError("the question is empty; give a text, or the name of a file")
    return text


def _picture(asked: object) -> object:
    """A picture, which may be given as the name of a file.

    Raises:
        UserError: there is no such file, or no picture in it.
    """
    if not isinstance(asked, str | os.PathLike):
        return asked
    file = Path(asked)
    if not file.is_file():
        raise UserError(f"{file}: no such picture; the index holds pictures, ask with the name of a file")
    try:
        return open_picture(file.read_bytes())
    except BROKEN as error:
        raise UserError(f"{file} holds no picture that can be read: {error}") from error


def rank(
    index: Index, asked: object, method: Method | None, there: Sequence[np.ndarray], depth: int
) -> list[tuple[Place, float]]:
    """Rows by how well they answer, best first.

    Args:
        index: to search.
        asked: a text, a picture, or the name of a file of either.
        method: `dense`, `words` or `hybrid`; that of the index when None: `hybrid` for texts, `dense` for pictures.
        there: rows of each segment that count.
        depth: most rows of each ranking.
    """
    pictures = isinstance(index.encoder, ImageEncoder)
    if pictures and method in ("hybrid", "words"):
        raise UserError(f"--method {method}: the index holds pictures, which have no words; drop it")
    if pictures:
        return nearest_rows(index, vector_of(index, _picture(asked)), there, depth)
    text = _asked_text(index, asked)
    if method == "words":
        return by_words(index, text, there, depth)
    dense = nearest_rows(index, vector_of(index, text), there, depth)
    return dense if method == "dense" else fused([dense, by_words(index, text, there, depth)])


def search(
    index: Index, asked: object, k: int = 5, method: Method | None = None, where: Sequence[str] = ()
) -> list[Hit]:
    """The documents that answer a question best, each with the passage that does.

    Args:
        index: to search.
        asked: a text, a picture, or the name of a file of either.
        k: most documents.
        method: see `rank`.
        where: conditions on columns of the documents, such as year>=2000; all have to be fulfilled.

    Raises:
        UserError: an empty question, a file that cannot be read, or a condition on no column.
    """
    there = allowed(index.segments, [Condition.parse(one) for one in where])
    return best_passages(index, rank(index, asked, method, there, max(DEPTH, 4 * k)), k)


def best_passages(index: Index, ranking: Sequence[tuple[Place, float]], k: int) -> list[Hit]:
    """The first k documents of a ranking of rows, each by its best row."""
    found: dict[str, Hit] = {}
    for (number, place), score in ranking:
        row = next(index.segments[number].rows([place]))
        if row.id not in found:
            found[row.id] = Hit(
                row.id, score, row.text, row.start, row.stop, row.source, _state(row.source, row.stamp), row.about
            )
        if len(found) == k:
            break
    return list(found.values())


def _state(source: str | None, stamp: str | None) -> str | None:
    """Whether a file is as it was when it was indexed."""
    if source is None:
        return None
    now = file_stamp(source)
    return "gone" if now is None else "same" if now == stamp else "changed"


def similar(index: Index, ids: Sequence[str], k: int = 5, where: Sequence[str] = ()) -> list[Hit]:
    """What is near to some documents: to the mean of the vectors of all their rows, themselves left out.

    Raises:
        UserError: one of them is not there.
    """
    there = allowed(index.segments, [Condition.parse(one) for one in where])
    asked, vectors, seen = set(ids), [], set()
    for segment, some in zip(index.segments, there, strict=True):
        for row, (name,) in segment.alive("id"):
            if name in asked:
                vectors.append(torch.from_numpy(np.array(segment.vectors[row])))
                seen.add(name)
                some[row] = False
    if missing := sorted(asked - seen):
        raise UserError(f"{index.shelf.folder} has no document {missing[0]!r}; ids are those of the hits of a search")
    profile = F.normalize(torch.stack(vectors).mean(0), dim=0)
    return best_passages(index, nearest_rows(index, profile, there, max(DEPTH, 4 * k)), k)

"""Questions to an index: the documents or passages that answer best."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.decode import BROKEN, SUFFIXES, open_picture
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.search.filters import Condition, allowed
from selfsup.search.hits import Hit, hits_of
from selfsup.search.index import Index
from selfsup.search.ranking import (
    WEIGHTS,
    Ranking,
    Unit,
    best_of_each,
    by_words,
    document_of,
    fused,
    moved,
    nearest_rows,
    passage,
)  # fmt: skip
from selfsup.text_encoder import TextEncoder

Found = TypeVar("Found")
Method = Literal["hybrid", "dense", "words"]
DEPTH = 100  # rows of each ranking, at least


def vector_of(index: Index, asked: Any) -> Tensor:  # noqa: ANN401 - a text or a picture
    """(D,) of length 1."""
    encoder, width = index.encoder, index.contents.about["width"]
    if isinstance(asked, str) != (encoder.kind != "image"):
        assert index.other is not None
        encoder = index.other
    found = encoder.encode([asked], "query") if isinstance(encoder, TextEncoder) else encoder.encode([asked])
    return F.normalize(found[0, :width], dim=0)


def asked_text(index: Index, asked: object) -> str:
    """The text of a question, which may be the name of a file.

    Raises:
        UserError: it is empty, or the file cannot be read.
    """
    if not isinstance(asked, str | os.PathLike):
        raise UserError(f"{index.shelf.folder} holds texts: ask with a text or a file of one")
    text = os.fspath(asked)
    if os.path.isfile(text):  # pathlib raises where a text is too long for a name
        try:
            text = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise UserError(f"{text} cannot be read as text: {error}") from error
    if not text.strip():
        raise UserError("the question is empty; give a text, or the name of a file")
    return text


def by_picture(index: Index, asked: object) -> bool:
    """Whether a question is a picture; where both kinds may be asked, a name is one by its ending."""
    if index.other is None:
        return isinstance(index.encoder, ImageEncoder)
    if not isinstance(asked, str | os.PathLike):
        return True
    return Path(asked).suffix.lower() in SUFFIXES and (os.path.isfile(asked) or " " not in os.fspath(asked))


def _picture(asked: object) -> object:
    """A picture, which may be given as the name of a file.

    Raises:
        UserError: there is no such file, or no picture in it.
    """
    if not isinstance(asked, str | os.PathLike):
        return asked
    file = Path(asked)
    if not os.path.isfile(asked):
        raise UserError(f"{file}: no such picture; ask for one with the name of its file")
    try:
        return open_picture(file.read_bytes())
    except BROKEN as error:
        raise UserError(f"{file} holds no picture that can be read: {error}") from error


def rank(
    index: Index, asked: object, method: Method | None, there: Sequence[np.ndarray], depth: int, unit: Unit
) -> Ranking:
    """Passages or documents by how well they answer, best first.

    Args:
        index: to search.
        asked: a text, a picture, or the name of a file of either.
        method: `dense`, `words` or `hybrid`; that of the index when None: `hybrid` for texts, `dense` for pictures.
        there: rows of each segment that count.
        depth: most rows of each ranking.
        unit: what is ranked.
    """
    pictures = isinstance(index.encoder, ImageEncoder)
    if pictures and method in ("hybrid", "words"):
        raise UserError(f"--method {method}: the index holds pictures, which have no words; drop it")
    if by_picture(index, asked):
        if method in ("hybrid", "words"):
            raise UserError(f"--method {method}: a picture was asked for, which has no words; drop it")
        return best_of_each(nearest_rows(index, vector_of(index, _picture(asked)), there, depth), unit)
    text = asked_text(index, asked)
    if pictures:
        return best_of_each(nearest_rows(index, vector_of(index, text), there, depth), unit)
    if method == "dense":
        return best_of_each(nearest_rows(index, vector_of(index, text), there, depth), unit)
    words = by_words(index, text, there, depth, unit)
    if method == "words":
        return words
    dense = nearest_rows(index, moved(index, vector_of(index, text), words), there, depth)
    return fused([words, dense], WEIGHTS, unit)


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
        UserError: an empty question, a file that cannot be read, k below 1, or a condition on no column.
    """
    there, unit = counting(index, k, where), document_of(index)
    rows = 0 if method == "words" else _rows(there)  # by words whole documents are ranked
    return list(hits_of(index, _enough(rows, k, lambda depth: rank(index, asked, method, there, depth, unit))[:k]))


def passages(
    index: Index, asked: object, k: int = 5, method: Method | None = None, there: Sequence[np.ndarray] | None = None
) -> list[Hit]:
    """The passages that answer a question best; several of a document, but none that overlaps a better one.

    Args:
        index: to search.
        asked: a text, a picture, or the name of a file of either.
        k: most passages.
        method: see `rank`.
        there: rows of each segment that count; all if None. See `counting`.
    """
    some = [one.there for one in index.segments] if there is None else there

    def apart(depth: int) -> list[Hit]:
        found: list[Hit] = []
        for hit in hits_of(index, rank(index, asked, method, some, depth, passage)):
            if not any(hit.id == one.id and hit.start < one.stop and one.start < hit.stop for one in found):
                found.append(hit)
            if len(found) == k:
                break
        return found

    return _enough(_rows(some), k, apart)


def _rows(there: Sequence[np.ndarray]) -> int:
    return sum(int(some.sum()) for some in there)


def _enough(rows: int, k: int, ranked: Callable[[int], list[Found]]) -> list[Found]:
    """What is found in the first rows, or in more of them until it is k: one document may have all of them for itself.

    Args:
        rows: there are.
        k: how many to find.
        ranked: what is found in so many.
    """
    depth = max(DEPTH, 4 * k)
    found = ranked(depth)
    while len(found) < k and depth < rows:
        depth *= 8
        found = ranked(depth)
    return found


def counting(index: Index, k: int, where: Sequence[str]) -> list[np.ndarray]:
    """(N,) bool for each segment: rows that count and fulfil conditions.

    Raises:
        UserError: k below 1, or a condition on no column.
    """
    if k < 1:
        raise UserError(f"-k {k}: allowed is a number of hits, 1 or more")
    return allowed(index.segments, [Condition.parse(one) for one in where])


def similar(index: Index, ids: Sequence[str], k: int = 5, where: Sequence[str] = ()) -> list[Hit]:
    """What is near to some documents: to the mean of the vectors of all their rows, themselves left out.

    Args:
        index: to search.
        ids: of documents, whether they fulfil the conditions or not.
        k: most documents.
        where: as for `search`.

    Raises:
        UserError: one of them is not there, k below 1, or a condition on no column.
    """
    there = counting(index, k, where)
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
    unit = document_of(index)
    found = _enough(_rows(there), k, lambda depth: best_of_each(nearest_rows(index, profile, there, depth), unit))
    return list(hits_of(index, found[:k]))

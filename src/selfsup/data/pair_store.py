"""Prepared pairs: distinct texts as tokens, and rows of their numbers."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from selfsup.data.pairs import Kind, Prompts, distinct_texts
from selfsup.data.part import Part
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import Lines
from selfsup.data.tokens import Progress, open_tokens
from selfsup.errors import UserError

log = logging.getLogger("selfsup")


@dataclass(frozen=True)
class PairStore(TokenStore):
    """Tokens of distinct texts, and which of them make a row.

    Attributes:
        rows: (N, C) int32 numbers of texts: the query, its positive, its negatives; -1 where there is none.
        identity: (T,) int32 of each text; equal for the same text behind another prompt.
        scores: (N,) float32, how alike query and positive are; of length 0 where nobody said.
    """

    rows: np.ndarray
    identity: np.ndarray
    scores: np.ndarray

    def digest(self) -> str:
        """A short digest of all tokens and rows."""
        total = hashlib.blake2b(super().digest().encode(), digest_size=12)
        for array in (self.rows, self.identity, self.scores):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()


def _with_rows(tokens: TokenStore, folder: Path, name: str) -> PairStore:
    """The store of one side; rows whose query or positive has no token are left out."""
    values = {field.name: vars(tokens)[field.name] for field in fields(TokenStore)}
    rows, identity, scores = (np.load(folder / f"{name}.{what}.npy") for what in ("rows", "identity", "scores"))
    found = PairStore(**values, rows=rows, identity=identity, scores=scores)
    empty = found.places[:, 0] == found.places[:, 1]
    good = ~empty[rows[:, :2]].any(1)
    if good.all():
        return found
    log.warning("%d of %d pairs have a text without any token, left out", (~good).sum(), len(good))
    return PairStore(**values, rows=rows[good], identity=identity, scores=scores[good] if len(scores) else scores)


def open_pairs(  # noqa: PLR0913 - all that pairs depend on
    part: Part,
    valid: Part | None,
    kind: Kind,
    prompts: Prompts,
    tokenizer: str,
    vocabulary: int | None,
    lines: Lines,
    root: Path,
    progress: Progress,
) -> tuple[PairStore, PairStore | None]:
    """The prepared pairs of a source: training and held-out part.

    Args:
        part: pairs to train on; without `valid`, those of a fixed 5 % of the queries are held out.
        valid: the user's own held-out pairs.
        kind: whether they are columns, or titles of documents with the rest.
        prompts: what is put in front of queries and of other texts.
        tokenizer: see `open_tokens`, as the next two.
        vocabulary: ids.
        lines: line breaks.
        root: folder of all stores.
        progress: told (what, done, of) as the work goes on.

    Raises:
        UserError: too few pairs, or the cache cannot be written.
    """
    folder, (texts, others) = distinct_texts(part, kind, prompts, valid is None, root, progress)
    if len(texts) < 2:
        raise UserError(f"{len(texts)} texts in pairs to train on; two or more are needed")
    other_folder, name = folder, "held_out"
    if valid is not None:
        other_folder, (others, _) = distinct_texts(valid, kind, prompts, False, root, progress)
        name = "train"
    held = others if len(others) else texts
    train, held_out = open_tokens(texts, held, tokenizer, vocabulary, root, progress, lines)
    found = _with_rows(train, folder, "train")
    if not len(others):
        return found, None
    kept = _with_rows(held_out, other_folder, name)
    return found, kept if len(kept.rows) else None

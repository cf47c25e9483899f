"""The pictures that were found, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfsup.data.decode import BROKEN
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.pictures import Picture, sheet
from selfsup.run import check_writable, writing
from selfsup.search.hits import Hit
from selfsup.search.index import Index
from selfsup.search.thumbnails import small

ROW = 6  # pictures
EDGE = 240  # pixels of the longer edge of one: more would not be seen
MISSING = np.full((48, 48), 235, np.uint8)  # stands for what cannot be read any more


def check_sheet(index: Index, out: Path) -> None:
    """Raise `UserError` where no page of pictures can be drawn, before the work."""
    if not isinstance(index.encoder, ImageEncoder):
        raise UserError(f"--out is for pictures, and {index.shelf.folder} holds texts; drop it")
    if out.suffix != ".png":
        raise UserError(f"--out {out}: the allowed ending is .png")
    check_writable(out)


def draw_hits(out: Path, hits: Sequence[Hit], title: str, asked: Path | None = None) -> None:
    """Write a PNG with the picture that was asked for, if it was one, and the hits, best first.

    Raises:
        UserError: the file cannot be written.
    """
    shown = [] if asked is None else [Picture(_pixels(asked.read_bytes()), "asked")]
    shown += [Picture(_pixels(_content(hit)), f"{hit.score:.3f}  {Path(hit.id).name}") for hit in hits]
    with writing(out):
        sheet(out, [shown[start : start + ROW] for start in range(0, len(shown), ROW)], title)


def _content(hit: Hit) -> bytes | None:
    """The file of a hit, or what the index keeps where there was none."""
    try:
        return hit.picture if hit.source is None else Path(hit.source).read_bytes()
    except OSError:
        return None


def _pixels(content: bytes | None) -> np.ndarray:
    """(H, W, 3) uint8."""
    try:
        return MISSING if content is None else np.asarray(small(content, EDGE))
    except BROKEN:
        return MISSING

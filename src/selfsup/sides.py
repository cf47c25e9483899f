"""Which encoder reads what a user has: a run's only one, or one of two towers in their common space."""

from __future__ import annotations

import os
from typing import Literal

from datasets import Dataset

from selfsup.data.captions import captions_in
from selfsup.data.part import Part, cell_paths
from selfsup.data.source import Source
from selfsup.data.store import fingerprint
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError
from selfsup.predict import holds, load_predictor
from selfsup.predictors.pair import Pair
from selfsup.runtime import fastest_device

Side = Literal["image", "text"]


def load_sides(place: str | os.PathLike) -> dict[str, Encoder]:
    """The sides `image` and `text` of two towers, on the fastest device; their cosines say what belongs together.

    Args:
        place: a run of `clip`, or the exported folder of its pair.

    Raises:
        UserError: there is no pair.
    """
    return load_predictor(place, Pair).sides()


def encoder_for(
    place: str | os.PathLike, source: Source, side: Side | None = None
) -> tuple[Encoder, Encoder | None, Source]:
    """The encoder that reads a source, the other of two towers, and what the first is to read.

    Args:
        place: a run, an exported folder, or a hub id.
        source: what is to be read.
        side: of two towers; the one of pictures where the source has any, if None.

    Returns:
        Of two towers the one and the other, on the fastest device; and what the first reads of the source, see
        `read_by`.

    Raises:
        UserError: no encoder there, or a side of something without two towers.
    """
    if holds(place, Pair.kind):
        sides = load_sides(place)
        side = side or ("image" if "image" in source.parts["train"].table.column_names else "text")
        return sides[side], sides["text" if side == "image" else "image"], read_by(side, source)
    if side is not None:
        raise UserError(f"--side {side}: {os.fspath(place)} has no two towers; drop it")
    return load_encoder(place).to(fastest_device()), None, source


def read_by(side: str, source: Source) -> Source:
    """What one of two towers reads of a source: each file once, or the captions in lists one by one."""
    parts = {name: _files(part) if side == "image" else _captions(part) for name, part in source.parts.items()}
    return Source(source.name, parts)


def _files(part: Part) -> Part:
    """The part with the first row of each file only: other rows of it are other captions of the same picture."""
    if "image" not in part.table.column_names:
        return part
    first: dict[object, int] = {}
    for row, (path, embedded) in enumerate(cell_paths(part.table)):
        first.setdefault(row if path is None or embedded else path, row)
    if len(first) == len(part):
        return part
    return Part(part.table.select(list(first.values())), fingerprint([part.identity, "files"]), part.folder)


def _captions(part: Part) -> Part:
    """The part itself if it has texts, else a row for each caption in its lists."""
    if "text" in part.table.column_names or "texts" not in part.table.column_names:
        return part
    texts = [text for cell in part.table["texts"] for text in captions_in(cell)]
    return Part(Dataset.from_dict({"text": texts}), fingerprint([part.identity, "captions"]), part.folder)

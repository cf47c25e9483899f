"""Which encoder reads what a user has: a run's only one, or one of two towers in their common space."""

from __future__ import annotations

import os
from typing import Literal

from selfsup.data.source import Source
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


def encoder_for(place: str | os.PathLike, source: Source, side: Side | None = None) -> Encoder:
    """The encoder that reads a source, on the fastest device.

    Args:
        place: a run, an exported folder, or a hub id.
        source: what is to be read.
        side: of two towers; the one of pictures where the source has any, if None.

    Raises:
        UserError: no encoder there, or a side of something without two towers.
    """
    if holds(place, Pair.kind):
        have = source.parts["train"].table.column_names
        return load_sides(place)[side or ("image" if "image" in have else "text")]
    if side is not None:
        raise UserError(f"--side {side}: {os.fspath(place)} has no two towers; drop it")
    return load_encoder(place).to(fastest_device())

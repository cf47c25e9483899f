"""A class for every picture by the names of classes alone, with two towers that know pictures and texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfsup.classify import columns_there, csv_file, write_best
from selfsup.data.decode import BROKEN, cell_bytes
from selfsup.data.source import Data, Source, open_source
from selfsup.embedding import encode_source
from selfsup.errors import UserError
from selfsup.eval.zero_shot import class_vectors, read_templates, spoken
from selfsup.pictures import Picture, sheet
from selfsup.predict import load_predictor
from selfsup.predictors.pair import Pair
from selfsup.progress import Progress
from selfsup.run import check_writable, writing
from selfsup.search.thumbnails import small

SHOWN, ROW = 24, 6  # pictures on a page, and in a row
EDGE = 240  # pixels


def name_classes(
    place: str | os.PathLike,
    data: Data,
    labels: Sequence[str],
    out: str | os.PathLike,
    templates: Path | None = None,
    columns: tuple[str, ...] = (),
    page: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Write a CSV with `name`, `part`, `label` and `probability` for each picture of the data.

    Radford et al. 2021, section 3.1: the softmax of cosines with the names of all classes, at the temperature of the
    run. A picture that cannot be read has neither label nor probability.

    Args:
        place: a run of `clip`, or the exported folder of its pair.
        data: pictures.
        labels: names of two classes or more.
        out: file to write.
        templates: text file of templates; see `read_templates`.
        columns: `meaning=name` pairs of the data.
        page: file for a page with some of the pictures and their classes, .png.
        quiet: no progress on the terminal.

    Raises:
        UserError: fewer than two names, no pair there, no pictures, or a file that cannot be written.
    """
    names = list(dict.fromkeys(name.strip() for name in labels))
    if len(names) < 2 or "" in names:
        raise UserError(f"--labels {' '.join(map(repr, labels))}: give the names of two classes or more, none empty")
    file, filled = csv_file(out), read_templates(templates)
    if page is not None:
        if page.suffix != ".png":
            raise UserError(f"--sheet {page}: the allowed ending is .png")
        check_writable(page)
    pair = load_predictor(place, Pair)
    sides, source = pair.sides(), open_source(data, columns_there(data, columns))
    source.require("image")
    found = encode_source(sides["image"], source, Progress(not quiet))
    cosines = found.vectors @ class_vectors(sides["text"], list(map(spoken, names)), filled).T  # (N, K)
    classes, chances = write_best(file, found, pair.scale * cosines, names)
    if page is not None:
        _draw(page, source, classes, chances)
    return file


def _draw(page: Path, source: Source, classes: Sequence[str | None], chances: Sequence[float]) -> None:
    """Some of the pictures, evenly spread, each below its class."""
    cells = [(part.table, row) for part in source.parts.values() for row in range(len(part))]
    shown = []
    for number in np.unique(np.linspace(0, len(cells) - 1, min(SHOWN, len(cells))).astype(np.int64)).tolist():
        table, row = cells[number]
        try:
            picture = np.asarray(small(cell_bytes(table[row]["image"]), EDGE))
        except BROKEN:
            continue
        shown.append(Picture(picture, f"{classes[number]}  {100 * chances[number]:.0f} %"))
    if shown:
        with writing(page):
            sheet(page, [shown[start : start + ROW] for start in range(0, len(shown), ROW)], "classes by their names")

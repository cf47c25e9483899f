"""PNG files of pictures: sheets of views, neighbors.

Drawn with matplotlib's object interface on the Agg backend, without pyplot, so nothing global changes. Layouts are
computed in inches and text is measured, so that no title is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfsup.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

WIDTH, DPI = 8.0, 150  # 1200 px
MARGIN, CELL, GAP, ASIDE = 0.15, 1.6, 0.08, 0.3  # inches
TITLE, TEXT, LEADING = 12, 9, 1.5  # points, points, line height
FONT, INK, FAINT, HAIR = "DejaVu Sans", "#24292f", "#8c959f", "#eaeef2"


@dataclass(frozen=True)
class Picture:
    """An image with a title.

    Attributes:
        image: (H, W) or (H, W, C), uint8 or float in [0, 1]; of more than three channels the first three are shown.
        title: what it is; may be empty.
    """

    image: np.ndarray
    title: str = ""

    def rgb(self) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        image = np.asarray(self.image)
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise UserError(f"a picture has shape {image.shape}: allowed are (H, W) and (H, W, C), nothing empty")
        if image.dtype != np.uint8:
            image = np.rint(np.clip(np.nan_to_num(image.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
        image = image[:, :, None] if image.ndim == 2 else image
        if image.shape[2] < 3:
            image = np.repeat(np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
        return image[:, :, :3]


def page(width: float, height: float) -> Figure:
    """An empty page, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def save_page(figure: Figure, path: str | Path) -> None:
    """Write the page; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", backend="agg", dpi=DPI, facecolor="white")


def fitted(text: str, inches: float, points: float, limit: int) -> list[str]:
    """Break text into at most `limit` lines that fit a width; an ellipsis stands for what is left out."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.textpath import TextToPath

    known = get_font(findfont(FONT)).get_charmap()
    measure, font = TextToPath(), FontProperties(family=FONT, size=points)

    def fits(line: str) -> bool:
        return measure.get_text_width_height_descent(line, font, ismath=False)[0] <= inches * 72

    lines: list[str] = []
    # A dot for each character that the font lacks: matplotlib would warn about every one.
    for word in "".join(c if ord(c) in known or c.isspace() else "\u00b7" for c in text).split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        elif len(lines) < limit:
            lines.append(word)
        else:
            lines[-1] += f" {word}\u2026"
            break
    for number, line in enumerate(lines):
        while len(line) > 1 and not fits(line):
            line = line.rstrip("\u2026")[:-1].rstrip() + "\u2026"
        lines[number] = line
    return lines


def put_text(figure: Figure, x: float, y: float, text: str, size: float = TEXT, align: str = "left") -> None:
    """Put text on the page, (x, y) in inches from the lower left corner to its baseline."""
    x, y = np.array([x, y]) / figure.get_size_inches()
    figure.text(x, y, text, fontsize=size, family=FONT, color=INK, ha=align, parse_math=False)


def _grid(path: str | Path, rows: list[list[Picture]], title: str, headed: bool, aside: float) -> None:
    """Draw rows of pictures in cells of one width.

    `headed`: titles stand above the columns, not above each picture; `aside`: more inches after the first column.
    """
    from matplotlib.image import AxesImage

    images = [[picture.rgb() for picture in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise UserError("there are no pictures to draw: give at least one row with one picture")
    cell = min(CELL, (WIDTH - 2 * MARGIN - aside - GAP * (columns - 1)) / columns)
    talls = [cell * min(max((i.shape[0] / i.shape[1] for i in row), default=0.0), 2.0) for row in images]
    width = max(2 * MARGIN + aside + columns * cell + (columns - 1) * GAP, 3.0)
    line, heading = LEADING * TEXT / 72, LEADING * TITLE / 72
    lines = fitted(title, width - 2 * MARGIN, TITLE, limit=4)
    titled = [any(p.title for p in row) and (number == 0 or not headed) for number, row in enumerate(rows)]
    height = 2 * MARGIN + len(lines) * heading + sum(titled) * line + sum(talls) + (len(rows) - 1) * GAP
    figure = page(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # one for all: each would cost 20 ms
    axes.set_axis_off()
    y = height - MARGIN
    for text in lines:
        y -= heading
        put_text(figure, MARGIN, y + 0.4 * heading, text, TITLE)
    for row, row_images, above, tall in zip(rows, images, titled, talls, strict=True):
        y -= line * above
        for column, (picture, image) in enumerate(zip(row, row_images, strict=True)):
            x = MARGIN + column * (cell + GAP) + (aside if column else 0)
            for text in fitted(picture.title, cell, TEXT, limit=1) if above else []:
                put_text(figure, x + cell / 2, y + 0.3 * line, text, align="center")
            broad = min(cell, tall * image.shape[1] / image.shape[0])
            high, left = broad * image.shape[0] / image.shape[1], x + (cell - broad) / 2
            axes.add_image(shown := AxesImage(axes, extent=(left, left + broad, y - high, y)))
            shown.set_data(image)
        y -= tall + GAP
    save_page(figure, path)


def sheet(path: str | Path, rows: list[list[Picture]], title: str = "") -> None:
    """Contact sheet of views: a row is an example, its columns are the original and the views.

    Titles that are the same in every row stand once, above the columns.

    Raises:
        UserError: no picture, or one that is no image.
    """
    titles = [[picture.title for picture in row] for row in rows]
    headed = bool(titles) and all(row == titles[0][: len(row)] for row in titles)
    _grid(path, rows, title, headed, aside=0)


def neighbors(path: str | Path, queries: list[Picture], found: list[list[Picture]], title: str = "") -> None:
    """A query at the left of each row, what was found for it at the right, the nearest first.

    Raises:
        UserError: no picture at all, one that is no image, or not one list of neighbors a query.
    """
    if len(queries) != len(found):
        raise UserError(f"{len(queries)} queries and {len(found)} lists of neighbors were given: give one list a query")
    rows = [[query, *nearest] for query, nearest in zip(queries, found, strict=True)]
    _grid(path, rows, title, headed=False, aside=ASIDE)

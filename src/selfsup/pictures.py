"""PNG files that show a run: its loss, its views, its neighbors, its map.

Drawn with matplotlib's object interface on the Agg backend, without pyplot, so nothing global changes. Layouts are
computed in inches and text is measured, so that no title is clipped.
"""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selfsup.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

WIDTH, DPI = 8.0, 150  # 1200 px
MARGIN, CELL, GAP, ASIDE = 0.15, 1.6, 0.08, 0.3  # inches
TITLE, TEXT, LEADING = 12, 9, 1.5  # points, points, line height
FONT, INK, FAINT, HAIR = "DejaVu Sans", "#24292f", "#8c959f", "#eaeef2"
COLORS = ["#2f6690", "#d1603d", "#4f8a5b", "#7b5ea7", "#c9a227", "#4aa3b5", "#b5446e", "#8a6d4f", "#7d8590", "#8fb339"]
HELD_OUT, LEGEND_LIMIT = "held-out", 20


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


def _page(width: float, height: float) -> Figure:
    """An empty page, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def _save(figure: Figure, path: str | Path) -> None:
    """Write the page; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", backend="agg", dpi=DPI, facecolor="white")


def _lines(text: str, inches: float, points: float, limit: int) -> list[str]:
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


def _write(figure: Figure, x: float, y: float, text: str, size: float = TEXT, align: str = "left") -> None:
    """Put text on the page, (x, y) in inches from the lower left corner to its baseline."""
    x, y = np.array([x, y]) / figure.get_size_inches()
    figure.text(x, y, text, fontsize=size, family=FONT, color=INK, ha=align, parse_math=False)


def _grid(path: str | Path, rows: list[list[Picture]], title: str, headed: bool, aside: float) -> None:
    """Draw rows of pictures in cells of one width.

    `headed`: titles stand above the columns, not above each picture; `aside`: more inches after the first column.
    """
    images = [[picture.rgb() for picture in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise UserError("there are no pictures to draw: give at least one row with one picture")
    cell = min(CELL, (WIDTH - 2 * MARGIN - aside - GAP * (columns - 1)) / columns)
    talls = [cell * min(max((i.shape[0] / i.shape[1] for i in row), default=0.0), 2.0) for row in images]
    width = max(2 * MARGIN + aside + columns * cell + (columns - 1) * GAP, 3.0)
    line, heading = LEADING * TEXT / 72, LEADING * TITLE / 72
    lines = _lines(title, width - 2 * MARGIN, TITLE, limit=4)
    titled = [any(p.title for p in row) and (number == 0 or not headed) for number, row in enumerate(rows)]
    height = 2 * MARGIN + len(lines) * heading + sum(titled) * line + sum(talls) + (len(rows) - 1) * GAP
    figure = _page(width, height)
    y = height - MARGIN
    for text in lines:
        y -= heading
        _write(figure, MARGIN, y + 0.4 * heading, text, TITLE)
    for row, row_images, above, tall in zip(rows, images, titled, talls, strict=True):
        y -= line * above
        for column, (picture, image) in enumerate(zip(row, row_images, strict=True)):
            x = MARGIN + column * (cell + GAP) + (aside if column else 0)
            for text in _lines(picture.title, cell, TEXT, limit=1) if above else []:
                _write(figure, x + cell / 2, y + 0.3 * line, text, align="center")
            axes = figure.add_axes((x / width, (y - tall) / height, cell / width, tall / height), anchor="N")
            axes.imshow(image)
            axes.set_axis_off()
        y -= tall + GAP
    _save(figure, path)


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


def loss_curve(
    path: str | Path, series: dict[str, tuple[np.ndarray, np.ndarray]], trivial: float | None = None
) -> None:
    """Loss against step: raw values faint, their running mean strong, held-out values as points.

    Args:
        path: the PNG file.
        series: name -> (steps (n,), losses (n,)); names that begin with "held-out" are drawn as points. Values that
            are not finite are left out, and rare wild ones may leave the frame.
        trivial: the loss of knowing nothing, a dashed line.
    """
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = _page(WIDTH, 4.5)
    axes = figure.add_axes((0.08, 0.115, 0.7, 0.85))
    levels: list[float] = []
    ends: list[tuple[float, str, str]] = []  # height, name, color
    colors = {False: itertools.cycle(COLORS[0::2]), True: itertools.cycle(COLORS[1::2])}
    for name, (steps, losses) in series.items():
        y = np.asarray(losses, dtype=float)
        x, y = np.asarray(steps)[np.isfinite(y)], y[np.isfinite(y)]
        if not len(y):
            continue
        levels += [*np.percentile(y, (0.5, 99.5)), y[-1]]
        points = name.startswith(HELD_OUT)
        color = next(colors[points])
        if points:
            axes.plot(x, y, "o-", color=color, markersize=5, linewidth=0.8, markeredgecolor="white", zorder=4)
        else:
            axes.plot(x, y, "o-" if len(y) == 1 else "-", color=color, alpha=0.25, linewidth=0.7, zorder=2)
            window = np.ones(2 * min(len(y) // 100, 500) + 1)
            y = np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")  # fewer at both ends
            axes.plot(x, y, color=color, linewidth=1.8, solid_capstyle="round", zorder=3)
        ends.append((float(y[-1]), name, color))
    if trivial is not None and np.isfinite(trivial):
        axes.axhline(trivial, color=FAINT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        levels.append(trivial)
        ends.append((trivial, "knowing nothing", FAINT))
    low, high = (min(levels), max(levels)) if levels else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.5
    axes.set(ylim=(low - pad, high + pad), xmargin=0.015)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=TEXT, labelfontfamily=FONT, length=3)
    axes.grid(axis="y", color=HAIR, linewidth=0.8, zorder=0)
    axes.set_xlabel("step", fontsize=TEXT, color=INK, family=FONT)
    axes.set_ylabel("loss", fontsize=TEXT, color=INK, family=FONT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _label_ends(axes, ends)
    _save(figure, path)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Name each curve at its right end instead of in a legend; names that would overlap are pushed apart."""
    low, high = axes.get_ylim()
    height = -1.0
    for value, name, color in sorted(ends):
        height = max((value - low) / (high - low), height + 0.05)
        label = f"{''.join(_lines(name, 1.15, TEXT, limit=1))} {value:.3g}"
        style = {"color": color, "fontsize": TEXT, "family": FONT, "va": "center", "parse_math": False}
        axes.text(1.015, height, label, transform=axes.transAxes, **style)


def map_points(features: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Features (N, D) laid out in the plane (N, 2): PCA to 50 dimensions, then t-SNE.

    Van der Maaten and Hinton 2008. The same features and seed give the same map; 2,000 rows take about five seconds.

    Raises:
        UserError: no rows, or values that are not finite.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    x = np.asarray(features, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise UserError(f"a map of features of shape {x.shape}: allowed is (N, D), N and D over 0, all values finite")
    # Sums over several threads depend on their timing in the last bits, and t-SNE amplifies those.
    with threadpool_limits(1):
        if len(x) < 5 or x.shape[1] < 2 or np.ptp(x, axis=0).max() == 0:  # too little for t-SNE: principal axes
            u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
            return np.pad((u * s)[:, :2], ((0, 0), (0, 2 - min(2, len(s))))).astype(np.float64)
        if min(x.shape) > 50:
            x = PCA(50, svd_solver="randomized", random_state=seed).fit_transform(x)
        layout = TSNE(init="pca", perplexity=min(30.0, (len(x) - 1) / 3), random_state=seed)
        return layout.fit_transform(x).astype(np.float64)


def embedding_map(
    path: str | Path, points: ArrayLike, labels: ArrayLike | None = None, names: list[str] | None = None
) -> None:
    """Scatter of points in the plane, one color a class.

    Up to 20 classes get a legend; more get their names as marks where all names are single letters, else colors only.

    Args:
        path: the PNG file.
        points: (N, 2).
        labels: (N,) integers, or none.
        names: of the classes, indexed by label; without them the numbers are shown.

    Raises:
        UserError: points that are not (N, 2), or not one label a point.
    """
    xy = np.asarray(points, dtype=float)
    kinds = np.zeros(len(xy), int) if labels is None else np.asarray(labels).astype(int)
    if xy.shape != (len(xy), 2) or kinds.shape != (len(xy),) or not np.isfinite(xy).all() or not len(xy):
        raise UserError(f"a map of points {xy.shape}, labels {kinds.shape}: allowed are finite (N, 2) and (N,), N > 0")
    present, size = np.unique(kinds), float(np.clip(24_000 / len(xy), 8, 60))
    titles = [names[kind] if names and 0 <= kind < len(names) else str(kind) for kind in present]
    many = len(present) > LEGEND_LIMIT
    legend = labels is not None and not many
    letters = many and all(len(t) == 1 and t.isalnum() and _lines(t, 1, TEXT, 1) == [t] for t in titles)
    aside, side = 1.7 if legend else 0.0, WIDTH - 1.7
    figure = _page(side + aside, side)
    axes = figure.add_axes((0, 0, side / (side + aside), 1))
    axes.set_axis_off()
    for number, (kind, title) in enumerate(zip(present, titles, strict=True)):
        color, mark = COLORS[number % len(COLORS)], "o^"[number // len(COLORS) % 2]
        if many:  # golden steps around the color circle set neighboring classes apart
            color = colorsys.hls_to_rgb(0.618034 * number % 1, (0.35, 0.5)[number % 2], 0.45)
        x, y = xy[kinds == kind].T
        if letters:
            axes.scatter(x, y, s=3 * size, color=color, marker=rf"$\mathdefault{{{title}}}$", linewidths=0)
        else:
            axes.scatter(x, y, s=size, color=color, marker=mark, alpha=0.85, linewidths=0.3, edgecolors="white")
        if legend:
            height = 0.96 - 0.04 * number
            axes.plot(1.02, height, mark, color=color, transform=axes.transAxes, clip_on=False, markeredgewidth=0)
            for text in _lines(title, aside - 0.4, TEXT, limit=1):
                _write(figure, 1.02 * side + 0.13, height * side - 0.35 * TEXT / 72, text)
    low, high = xy.min(axis=0), xy.max(axis=0)
    (x, y), reach = (low + high) / 2, max(float((high - low).max()), 1e-9) * 0.53
    axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    _save(figure, path)

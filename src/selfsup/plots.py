"""PNG files of numbers: the loss of a run, a map of its vectors, what its pictures and captions have in common."""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfsup.errors import UserError
from selfsup.pictures import (
    FAINT,
    FONT,
    HAIR,
    INK,
    LEADING,
    MARGIN,
    TEXT,
    TITLE,
    WIDTH,
    Picture,
    fitted,
    page,
    put_text,
    save_page,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

    from selfsup.eval.panel import Panel
    from selfsup.eval.result import Result

COLORS = ["#2f6690", "#d1603d", "#4f8a5b", "#7b5ea7", "#c9a227", "#4aa3b5", "#b5446e", "#8a6d4f", "#7d8590", "#8fb339"]
HELD_OUT, LEGEND_LIMIT = "held-out", 20
KEYS = 5  # names in a line above the scores of runs


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

    figure = page(WIDTH, 4.5)
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
    save_page(figure, path)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Name each curve at its right end instead of in a legend; names that would overlap are pushed apart."""
    low, high = axes.get_ylim()
    height = -1.0
    for value, name, color in sorted(ends):
        height = max((value - low) / (high - low), height + 0.05)
        label = f"{''.join(fitted(name, 1.15, TEXT, limit=1))} {value:.3g}"
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
    letters = many and all(len(t) == 1 and t.isalnum() and fitted(t, 1, TEXT, 1) == [t] for t in titles)
    aside, side = 1.7 if legend else 0.0, WIDTH - 1.7
    figure = page(side + aside, side)
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
            for text in fitted(title, aside - 0.4, TEXT, limit=1):
                put_text(figure, 1.02 * side + 0.13, height * side - 0.35 * TEXT / 72, text)
    low, high = xy.min(axis=0), xy.max(axis=0)
    (x, y), reach = (low + high) / 2, max(float((high - low).max()), 1e-9) * 0.53
    axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))
    save_page(figure, path)


def similarity_matrix(path: str | Path, pictures: list[Picture], cosines: ArrayLike, title: str = "") -> None:
    """How near each picture is to the caption of every other: a row a picture, a column the caption of that number.

    Args:
        path: the PNG file.
        pictures: N, each with its caption as title.
        cosines: (N, N) of pictures with captions.
        title: of the page.

    Raises:
        UserError: no pictures, or not one row and one column for each.
    """
    values, count = np.asarray(cosines, dtype=float), len(pictures)
    if values.shape != (count, count) or not count:
        raise UserError(f"{count} pictures and cosines {values.shape}: give one row and one column a picture")
    cell, left, right = min(4.6 / count, 0.6), 0.7, 2.4  # inches
    line, heading = LEADING * TEXT / 72, LEADING * TITLE / 72
    width, height = left + count * cell + right, 2 * MARGIN + heading + line + count * cell
    figure, top = page(width, height), height - MARGIN - heading - line
    for text in fitted(title, width - 2 * MARGIN, TITLE, limit=1):
        put_text(figure, MARGIN, height - MARGIN - 0.6 * heading, text, TITLE)
    axes = figure.add_axes((left / width, MARGIN / height, count * cell / width, count * cell / height))
    axes.imshow(values, cmap="Blues", vmin=0.0, vmax=max(values.max(), 1e-6))
    axes.set_axis_off()
    half = float(values.max()) / 2
    for row, picture in enumerate(pictures):
        y = top - (row + 1) * cell
        put_text(figure, left + (row + 0.5) * cell, top + 0.3 * line, str(row + 1), align="center")
        small = figure.add_axes(
            ((left - cell - 0.08) / width, (y + 0.02) / height, cell / width, (cell - 0.04) / height)
        )
        small.imshow(picture.rgb())
        small.set_axis_off()
        for text in fitted(f"{row + 1}  {picture.title}", right - 0.2, TEXT, limit=1):
            put_text(figure, left + count * cell + 0.1, y + cell / 2 - 0.3 * TEXT / 72, text)
        for column in range(count):
            color = "white" if values[row, column] > half else INK
            axes.text(
                column, row, f"{values[row, column]:.2f}".replace("0.", "."), color=color, fontsize=TEXT - 2,
                family=FONT, ha="center", va="center",
            )  # fmt: skip
    save_page(figure, path)


def score_panels(path: str | Path, panels: Sequence[Panel]) -> None:
    """Accuracies of several runs and their baselines: a frame for each label set, in it a line for each of them.

    Each kind of score has a color; bars are standard deviations over draws of labels, a dashed line is chance.

    Args:
        path: the PNG file.
        panels: what to draw.
    """
    from matplotlib.lines import Line2D

    scores = [{who: _accuracies(cells) for who, cells in panel.cells.items()} for panel in panels]
    columns = dict.fromkeys(column for one in scores for line in one.values() for column in line)
    colors = dict(zip(columns, itertools.cycle(COLORS)))
    left, right, row, head, foot, key = 2.3, 0.35, 0.27, 0.42, 0.45, 0.25  # inches
    legend = key * -(-len(colors) // KEYS)
    y = height = 2 * MARGIN + legend + sum(head + foot + row * len(one) for one in scores)
    figure, wide = page(WIDTH, height), WIDTH - left - right
    y -= MARGIN + legend
    for panel, one in zip(panels, scores, strict=True):
        y -= head
        put_text(figure, left, y + 0.12, "".join(fitted(panel.title, wide, TITLE, limit=1)), TITLE - 1)
        y -= row * len(one)
        axes = figure.add_axes((left / WIDTH, y / height, wide / WIDTH, row * len(one) / height))
        _draw_scores(axes, one, panel.chance, colors)
        for place, who in enumerate(one):
            run = next(iter(panel.cells[who].values()))["representation"] == "run"
            axes.text(
                -0.1 / wide, place, "".join(fitted(who, left - 0.3, TEXT, limit=1)), ha="right", va="center",
                transform=axes.get_yaxis_transform(), fontsize=TEXT, family=FONT, color=INK if run else FAINT,
                parse_math=False,
            )  # fmt: skip
        y -= foot
    dots = [Line2D([], [], color=color, **_mark(column)) for column, color in colors.items()]
    figure.legend(
        dots, list(colors), loc="upper left", ncols=KEYS, frameon=False, labelcolor=INK,
        prop={"family": FONT, "size": TEXT},
    )  # fmt: skip
    save_page(figure, path)


def _accuracies(cells: Mapping[str, Result]) -> dict[str, tuple[float, float]]:
    """Column -> accuracy and its deviation in percent, of the results that are accuracies."""
    return {
        column: (100 * row["mean"], 100 * row.get("sd_labels", 0.0))
        for column, row in cells.items()
        if row["metric"] == "accuracy"
    }


def _mark(column: str) -> dict[str, Any]:
    """How a score is drawn: that of the best layer, which may be the last one's, as a ring around it."""
    if column == "best layer":
        return {"marker": "o", "linestyle": "", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.5}
    return {"marker": "o", "linestyle": "", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}


def _draw_scores(
    axes: Axes, scores: Mapping[str, Mapping[str, tuple[float, float]]], chance: float, colors: Mapping[str, str]
) -> None:
    """A line for each name, on it a dot for each score."""
    for place, line in enumerate(scores.values()):
        axes.axhline(place, color=HAIR, linewidth=0.8, zorder=0)
        for column, (mean, sd) in line.items():
            axes.errorbar(mean, place, xerr=sd or None, fmt="none", ecolor=colors[column], elinewidth=1.4, zorder=2)
            axes.plot(mean, place, color=colors[column], **_mark(column))
    axes.axvline(100 * chance, color=FAINT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
    axes.set(ylim=(len(scores) - 0.5, -0.5), yticks=[])
    axes.margins(x=0.04)
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=TEXT, labelfontfamily=FONT, length=3)
    axes.grid(axis="x", color=HAIR, linewidth=0.8, zorder=0)

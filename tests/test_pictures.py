"""The drawings: what can be checked without eyes, by reading the PNG files back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from selfsup.errors import UserError
from selfsup.pictures import Picture, neighbors, sheet
from selfsup.plots import COLORS, embedding_map, loss_curve, map_points

RED, GREEN, BLUE = (np.full((8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))


def read(path):
    """(H, W, 3) int64."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def where(image, color):
    """Rows and columns of the pixels of one color, up to rounding: (n, 2)."""
    return np.argwhere((np.abs(image - np.asarray(color)) <= 2).all(axis=2))


def rgb(code):
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def has_margin(image, pixels=3):
    """Nothing touches the edge of the page, so nothing is clipped."""
    edges = (image[:pixels], image[-pixels:], image[:, :pixels], image[:, -pixels:])
    return all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize(
    "image, expected",
    [
        (np.array([[0.0, 1.0, 2.0, -1.0, np.nan]]), [[0] * 3, [255] * 3, [255] * 3, [0] * 3, [0] * 3]),
        (np.array([[10, 200]], np.uint8), [[10] * 3, [200] * 3]),
        (np.array([[[10]]], np.uint8), [[10] * 3]),
        (np.array([[[10, 20]]], np.uint8), [[15] * 3]),
        (np.array([[[1, 2, 3]]], np.uint8), [[1, 2, 3]]),
        (np.array([[[0.0, 0.5, 1.0, 0.7, 0.3]]], np.float32), [[0, 128, 255]]),
    ],
)
def test_any_number_of_channels(image, expected):
    got = Picture(image).rgb()
    assert got.dtype == np.uint8 and got.shape == (*image.shape[:2], 3)
    assert got[0].tolist() == expected


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4), (0, 3), (2, 2, 0)])
def test_what_is_no_picture(shape):
    with pytest.raises(UserError, match="shape"):
        Picture(np.zeros(shape)).rgb()


def test_sheet_places_rows_and_columns(tmp_path):
    rows = [[Picture(RED, "original"), Picture(GREEN, "view 1")], [Picture(BLUE, "original")]]
    sheet(tmp_path / "new" / "sheet.png", rows, "Two examples")
    page = read(tmp_path / "new" / "sheet.png")
    red, green, blue = (where(page, color[0, 0]) for color in (RED, GREEN, BLUE))
    assert len(red) == len(green) == len(blue) > 100**2
    assert red[:, 0].tolist() == green[:, 0].tolist()
    assert red[:, 1].max() < green[:, 1].min()
    assert red[:, 0].max() < blue[:, 0].min()
    assert blue[:, 1].min() == red[:, 1].min()
    assert has_margin(page)


def test_common_titles_stand_once(tmp_path):
    once = [[Picture(RED, "original"), Picture(GREEN, "view")]] * 3
    each = [[Picture(RED, f"original {i}"), Picture(GREEN, "view")] for i in range(3)]
    heights = []
    for name, rows in (("once", once), ("each", each)):
        sheet(tmp_path / f"{name}.png", rows)
        heights.append(read(tmp_path / f"{name}.png").shape[0])
    assert heights[0] < heights[1]


@pytest.mark.parametrize("columns", [1, 4, 12])
def test_hard_titles(tmp_path, columns):
    """Too long, mathematics, letters the font has not (a warning would fail this test), several lines."""
    title = "A very long title, costs $5_{ or $6^\\frac, \u65e5\u672c\u8a9e \U0001f600\nwith two lines " * 3
    row = [Picture(RED, f"{number} {title}") for number in range(columns)]
    sheet(tmp_path / "sheet.png", [row], title)
    page = read(tmp_path / "sheet.png")
    assert page.shape[1] <= 1200
    assert has_margin(page)


def test_pictures_keep_their_aspect(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    sheet(tmp_path / "sheet.png", [[Picture(wide), Picture(GREEN)]])
    height, width = np.ptp(where(read(tmp_path / "sheet.png"), (255, 0, 0)), axis=0) + 1
    assert width / height == pytest.approx(4, rel=0.05)


def test_neighbors_stand_apart_from_the_query(tmp_path):
    neighbors(tmp_path / "near.png", [Picture(RED, "query")], [[Picture(GREEN, "0.91"), Picture(BLUE, "0.87")]])
    page = read(tmp_path / "near.png")
    left, middle, right = (where(page, color[0, 0])[:, 1] for color in (RED, GREEN, BLUE))
    assert 0 < right.min() - middle.max() < (middle.min() - left.max()) / 2
    with pytest.raises(UserError, match="one list a query"):
        neighbors(tmp_path / "near.png", [Picture(RED)], [])


def test_nothing_to_draw(tmp_path):
    for rows in ([], [[]]):
        with pytest.raises(UserError, match="no pictures"):
            sheet(tmp_path / "sheet.png", rows)


def test_loss_curve(tmp_path):
    """The mean falls from upper left to lower right, the points follow it, the trivial loss lies above."""
    steps = np.arange(500)
    losses = 4 * np.exp(-steps / 100) + 1
    series = {"training": (steps, losses), "held-out": (steps[::100], losses[::100] + 0.1)}
    loss_curve(tmp_path / "loss.png", series, trivial=5.5)
    page = read(tmp_path / "loss.png")
    line, points, dashes = (where(page, rgb(code)) for code in (COLORS[0], COLORS[1], "#8c959f"))
    line, points = line[line[:, 1] < 900], points[points[:, 1] < 900]  # not the names at the right
    assert page.shape[:2] == (675, 1200)
    first, last = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
    assert first[0] + 300 < last[0]
    assert len(points) > 100
    assert min(dashes[:, 0]) < line[:, 0].min()
    assert has_margin(page)


def test_loss_curve_of_a_bad_run(tmp_path):
    """Nothing at all, one step, not finite values, and a spike that must not flatten the rest."""
    x, y = np.arange(1000), np.linspace(3, 2, 1000)
    y[100], y[200], y[300] = np.nan, np.inf, 1e9
    for number, series in enumerate([{}, {"training": (x[:1], y[:1])}, {"training": (x, y), "none": (x, y * np.nan)}]):
        loss_curve(tmp_path / f"{number}.png", series, trivial=[None, 3.0, float("nan")][number])
        assert has_margin(read(tmp_path / f"{number}.png"))
    line = where(read(tmp_path / "2.png"), rgb(COLORS[0]))
    line = line[line[:, 1] < 900]
    assert np.ptp(line[:, 0]) > 300


def test_map_points_keeps_neighbors_and_is_repeatable():
    features = torch.tensor(load_digits().data[:300]).float()
    one, two = map_points(features, seed=3), map_points(features, seed=3)
    assert one.shape == (300, 2) and np.array_equal(one, two)
    kinds = load_digits().target[:300]
    near = NearestNeighbors(n_neighbors=2).fit(one).kneighbors(return_distance=False)[:, 0]
    assert (kinds[near] == kinds).mean() > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (4, 1), (6, 80), (9, 1), (60, 70)])
def test_map_points_of_little(shape):
    points = map_points(np.random.default_rng(0).normal(size=shape))
    assert points.shape == (shape[0], 2) and np.isfinite(points).all()
    assert np.isfinite(map_points(np.ones(shape))).all()


@pytest.mark.parametrize("features", [np.zeros((0, 4)), np.zeros(3), np.full((3, 3), np.nan)])
def test_map_points_refuses(features):
    with pytest.raises(UserError, match="map of features"):
        map_points(features)


def test_embedding_map_colors_by_label(tmp_path):
    points = np.array([[0.0, 0.0]] * 30 + [[10.0, 10.0]] * 30)
    embedding_map(tmp_path / "map.png", points, np.repeat([0, 1], 30), ["left $_{ \u65e5", "_right"])
    page = read(tmp_path / "map.png")
    low, high = (where(page, rgb(code)) for code in COLORS[:2])
    low, high = low[low[:, 1] < 945], high[high[:, 1] < 945]  # not the legend
    assert len(low) and len(high)
    assert low[:, 0].min() > high[:, 0].max() and low[:, 1].max() < high[:, 1].min()
    assert has_margin(page)


@pytest.mark.parametrize("classes", [None, 1, 10, 20, 21, 100])
@pytest.mark.parametrize("named", [False, True])
def test_embedding_map_with_any_number_of_classes(tmp_path, classes, named):
    points = np.random.default_rng(0).normal(size=(200, 2))
    labels = None if classes is None else torch.arange(200) % classes
    names = [chr(945 + number) for number in range(classes or 0)] if named else None  # Greek letters and beyond
    embedding_map(tmp_path / "map.png", points, labels, names)
    page = read(tmp_path / "map.png")
    assert page.shape[1] == (1200 if classes and classes <= 20 else 945)
    assert has_margin(page)


@pytest.mark.parametrize(
    "points, labels", [(np.zeros((3, 3)), None), (np.zeros((0, 2)), None), (np.zeros((3, 2)), [1, 2])]
)
def test_embedding_map_refuses(tmp_path, points, labels):
    with pytest.raises(UserError, match="a map of points"):
        embedding_map(tmp_path / "map.png", points, labels)


def test_pyplot_stays_out(tmp_path):
    sheet(tmp_path / "sheet.png", [[Picture(RED)]])
    assert "matplotlib.pyplot" not in sys.modules

"""Pictures prepared once: uint8 squares, memory-mapped, with the original sizes and the labels beside."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset

from selfsup.data.decode import BROKEN, cell_bytes, open_picture, size_of, to_square
from selfsup.data.part import cell_name, cell_paths
from selfsup.data.squares import Progress, Squares, reason_of, write_squares
from selfsup.data.store import Mapped, stored
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
Labels = tuple[np.ndarray, tuple[str, ...]]  # (all,) int64 index into the names, -1 for none


@dataclass(frozen=True)
class PixelStore(Sequence):
    """Prepared pictures, a sequence of (R, R, C) uint8; a row that could not be read stands for the next good one.

    Attributes:
        paths: (all,) file of each picture, or None.
        rows: (N,) int64, the rows that this store shows; a split is another list.
        good: (all,) int64, the row that is shown for each row: itself, or the next good one.
        height, width: (all,) int32, original sizes in pixels.
        digests: (all,) uint64 of the pixels shown, equal for equal pixels.
        sums: (all, 2, C) int64, of the values of each picture, and of their squares.
        labels: (all,) int64, index into `classes`, -1 for none.
        classes: names of the labels.
        channels, resolution: C and R.
        squares: (all, R, R, C) uint8, memory-mapped; None where they exceed the cache budget.
        cells: the source, to decode what the cache had no room for; None where it had.
        bad: (row, name, reason) of what could not be read.
    """

    paths: np.ndarray
    rows: np.ndarray
    good: np.ndarray
    height: np.ndarray
    width: np.ndarray
    digests: np.ndarray
    sums: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    channels: int
    resolution: int
    squares: Mapped | None
    cells: Dataset | None
    bad: tuple[tuple[int, str, str], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int | slice) -> np.ndarray | PixelStore:  # type: ignore[override]
        return self.subset(np.arange(len(self))[row]) if isinstance(row, slice) else self.pixels([row])[0]

    def subset(self, rows: np.ndarray) -> PixelStore:
        """The store of some of the rows, in the order given."""
        return replace(self, rows=self.rows[rows])

    def pixels(self, rows: np.ndarray | Sequence[int] | slice) -> np.ndarray:
        """(B, R, R, C) uint8 of some rows.

        Raises:
            UserError: a picture that could be read when the store was built cannot be read any more.
        """
        shown = self.good[self.rows[rows]]
        if self.squares is not None:
            return self.squares[shown]
        assert self.cells is not None
        squares = np.empty((len(shown), self.resolution, self.resolution, self.channels), np.uint8)
        for i, cell in enumerate(self.cells[shown]["image"]):
            try:
                squares[i] = to_square(open_picture(cell_bytes(cell)), self.resolution, self.channels)
            except BROKEN as error:
                name = self.paths[shown[i]] or f"row {shown[i]}"
                raise UserError(
                    f"{name} cannot be read any more: {error}; start again with the data as it is"
                ) from error
        return squares

    def sizes(self, rows: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Original height and width of some rows, each (B,) int32."""
        shown = self.good[self.rows[rows]]
        return self.height[shown], self.width[shown]

    def label_rows(self) -> np.ndarray:
        """(N,) int64 labels of all rows; -1 for none, and for rows that could not be read."""
        labels = self.labels[self.rows].copy()
        labels[self.good[self.rows] != self.rows] = -1
        return labels

    def names(self) -> list[str]:
        """A name for every row: the file where there is one, else the number."""
        return [str(self.paths[row] or f"row {row}") for row in self.rows]

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel in [0, 1], over all pixels of all rows."""
        first, second = self.sums[self.good[self.rows]].sum(0) / (len(self) * self.resolution**2)  # (C,) each
        sd = np.sqrt(np.maximum(second - first**2, 0)).clip(1)  # constant channels stay finite
        return tuple(map(float, first / 255)), tuple(map(float, sd / 255))


def probe_sizes(table: Dataset, most: int = 256) -> int:
    """Median over some evenly spaced pictures of the shorter edge, in pixels; reads headers only."""
    edges, reason = [], ""
    for row in np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).astype(np.int64)):
        try:
            edges.append(min(size_of(open_picture(cell_bytes(table[int(row)]["image"])))))
        except BROKEN as error:
            reason = reason or f"{cell_name(table, int(row))}: {reason_of(error)}"
    if not edges:
        raise UserError(f"none of the {min(most, len(table))} pictures looked at could be read; the first: {reason}")
    return int(np.median(edges))


def open_pixels(
    table: Dataset,
    identity: str,
    resolution: int,
    root: Path,
    budget: int,
    progress: Progress,
    labels: Labels,
    channels: int | None = None,
) -> PixelStore:
    """The prepared pictures of one part of a source.

    Args:
        table: rows with an `image` cell.
        identity: fingerprint of the part's content.
        resolution: R, edge of the stored square.
        root: folder of all stores.
        budget: bytes that squares may take; more are decoded anew whenever asked for.
        progress: told (what, done, of) as the work goes on.
        labels: label of each row, and their names.
        channels: C of the part that this one goes with; found from the pictures where None.

    Raises:
        UserError: no picture can be read, or the cache cannot be written.
    """
    table = table.select_columns("image")

    def build(folder: Path) -> None:
        write_squares(folder, Squares(table, resolution, budget, progress), channels)

    # So many channels would fit: another budget is another store only where that changes what is kept.
    room = min(budget // (len(table) * resolution**2), 64)
    key = {"identity": identity, "resolution": resolution, "room": room, "channels": channels}
    folder = stored(root, "pixels", key, build)
    about = json.loads((folder / "store.json").read_text())
    arrays = dict(np.load(folder / "rows.npz"))
    shape = (len(table), resolution, resolution, about["channels"])
    bad = tuple((int(row), name, reason) for row, name, reason in about["bad"])
    if bad:
        reason = Counter(reason for _, _, reason in bad).most_common(1)[0][0]
        log.warning(
            "%d of %d pictures cannot be read and are skipped, such as %s (%s); all are named in %s",
            len(bad), len(table), bad[0][1], reason, folder / "store.json",
        )  # fmt: skip
    return PixelStore(
        paths=_paths(table),
        rows=np.arange(len(table)),
        good=arrays["good"],
        height=arrays["size"][:, 0],
        width=arrays["size"][:, 1],
        digests=arrays["digests"],
        sums=arrays["sums"],
        labels=labels[0],
        classes=labels[1],
        channels=about["channels"],
        resolution=resolution,
        squares=Mapped(folder / "squares.u8", np.uint8, shape) if about["kept"] else None,
        cells=None if about["kept"] else table,
        bad=bad,
    )


def _paths(table: Dataset) -> np.ndarray:
    """(all,) file of each picture, or None."""
    return np.array([path for path, _ in cell_paths(table)], dtype=object)

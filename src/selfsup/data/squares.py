"""The building of a picture store: pictures decoded by a few threads and written as squares."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from selfsup.data.decode import BROKEN, cell_bytes, channels_of, open_picture, size_of, to_square
from selfsup.data.part import cell_name
from selfsup.errors import UserError

BLOCK = 256  # pictures decoded by one call of a thread
Progress = Callable[[str, int, int], None]


class _MoreChannels(Exception):
    """A color picture turned up among gray ones."""


class _Decoded(NamedTuple):
    """A picture's pixels (R, R, C), its size before, and the sums over pixels of values and squared values, (C,)."""

    square: np.ndarray
    size: tuple[int, int]
    sums: tuple[np.ndarray, np.ndarray]


def reason_of(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _decode(cells: list, resolution: int, channels: int, most: int) -> list[_Decoded | str]:
    """Each cell decoded, or the reason why it cannot be."""
    found: list[_Decoded | str] = []
    for cell in cells:
        try:
            picture = open_picture(cell_bytes(cell))
            if channels_of(picture) > channels == 1 < most:
                raise _MoreChannels
            size = size_of(picture)
            square = to_square(picture, resolution, channels)
        except BROKEN as error:
            found.append(reason_of(error))
            continue
        flat = square.reshape(-1, channels)
        twice = np.multiply(flat, flat, dtype=np.uint16)
        found.append(_Decoded(square, size, (flat.sum(0, dtype=np.int64), twice.sum(0, dtype=np.int64))))
    return found


def _blocks(table: Dataset, resolution: int, channels: int, most: int) -> Iterator[list[_Decoded | str]]:
    """Decoded blocks in order; a few threads work ahead, so that memory stays bounded."""
    threads = min(os.cpu_count() or 1, 8)  # each holds blocks of pixels
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for start in range(0, len(table), BLOCK):
            cells = table[start : start + BLOCK]["image"]
            waiting.append(pool.submit(_decode, list(cells), resolution, channels, most))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        for job in waiting:
            yield job.result()


@dataclass(frozen=True)
class Squares:
    """What is to be written: the pictures of a table, as squares of this resolution, within a budget of bytes."""

    table: Dataset
    resolution: int
    budget: int
    progress: Progress

    def write(self, folder: Path, channels: int, most: int) -> None:
        """Fill a store's folder: squares.u8 (where there is room), rows.npz and store.json.

        Raises:
            _MoreChannels: a color picture is among gray ones, and up to `most` channels may be had.
            UserError: no picture can be read.
        """
        count, area = len(self.table), self.resolution**2 * channels
        keep = count * area <= self.budget
        size, good = np.zeros((count, 2), np.int32), np.arange(count)
        digests, sums = np.zeros(count, np.uint64), np.zeros((count, 2, channels), np.int64)
        bad: list[tuple[int, str, str]] = []
        row = 0
        with open(folder / "squares.u8", "wb") as file:
            for block in _blocks(self.table, self.resolution, channels, most):
                for found in block:
                    content = bytes(area)
                    if isinstance(found, str):
                        bad.append((row, cell_name(self.table, row), found))
                    else:
                        content = found.square.tobytes()
                        size[row], sums[row] = found.size, found.sums
                        digest = hashlib.blake2b(content, digest_size=8).digest()
                        digests[row] = int.from_bytes(digest, "little")
                    if keep:
                        file.write(content)
                    row += 1
                self.progress("preparing pictures", row, count)
        if len(bad) == count:
            raise UserError(f"none of the {count} pictures could be read; the first: {bad[0][1]}: {bad[0][2]}")
        broken = np.array([row for row, _, _ in bad], np.int64)
        sound = np.setdiff1d(good, broken)
        good[broken] = sound[np.searchsorted(sound, broken) % len(sound)]  # the next good row, around the end
        # A row that shows another's pixels has its digest, so that both fall on one side of a split.
        np.savez(folder / "rows.npz", size=size, digests=digests[good], sums=sums, good=good)
        (folder / "store.json").write_text(json.dumps({"channels": channels, "kept": keep, "bad": bad}))


def write_squares(folder: Path, squares: Squares, channels: int | None) -> None:
    """Fill a store's folder.

    Args:
        folder: where to write.
        squares: what to write.
        channels: C; found from the pictures where None.

    Raises:
        UserError: no picture can be read.
    """
    tries = [channels] if channels else _channel_tries(squares.table)
    for channel in tries:
        try:
            return squares.write(folder, channel, tries[-1])
        except _MoreChannels:
            continue


def _channel_tries(table: Dataset) -> list[int]:
    """Numbers of channels to try: gray is tried first where the first readable picture is gray."""
    for row in range(len(table)):
        try:
            first = channels_of(open_picture(cell_bytes(table[row]["image"])))
        except BROKEN:
            continue
        return [1, 3] if first == 1 else [first]
    return [3]

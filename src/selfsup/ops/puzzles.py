"""Puzzles: sets of permutations that are far apart, tiles of pictures, and their order."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from torch import Tensor

from selfsup.errors import UserError


@functools.cache
def distant_permutations(tiles: int, count: int) -> tuple[tuple[int, ...], ...]:
    """Permutations that differ from each other in as many places as can be (Noroozi and Favaro 2016, algorithm 1).

    Greedy: the next one is the farthest from those there are, by its smallest Hamming distance to them, and among
    equals by the sum of all. The first is the tiles' own order. The same arguments give the same set.

    Args:
        tiles: number of things to order, 2 to 9.
        count: size of the set.

    Raises:
        UserError: there are not so many permutations.
    """
    most = math.factorial(tiles)
    if not 2 <= count <= most:
        raise UserError(f"--permutations {count}: {tiles} tiles have {most:,}; allowed is 2 to {most:,}")
    every = np.array(list(itertools.permutations(range(tiles))), np.int8).T.copy()  # (tiles, tiles!)
    found = [np.arange(tiles)]
    nearest, total = np.full(most, tiles, np.int32), np.zeros(most, np.int32)
    while len(found) < count:
        distance = np.zeros(most, np.int8)
        for place, tile in enumerate(found[-1]):
            distance += every[place] != tile
        nearest, total = np.minimum(nearest, distance), total + distance
        found.append(every[:, np.argmax(nearest * (tiles * count) + total)])
    return tuple(tuple(int(tile) for tile in one) for one in found)


def cut_tiles(pictures: Tensor, side: int, edge: int, offsets: Tensor) -> Tensor:
    """One tile from each cell of a grid over each picture, cell by cell, row by row.

    Args:
        pictures: (B, C, S, S).
        side: cells along an edge.
        edge: of a tile in pixels, at most S // side.
        offsets: (B, side * side, 2) int64, place of the tile's upper left corner in its cell: down, across.

    Returns:
        (B, side * side, C, edge, edge).
    """
    cell, device = pictures.shape[2] // side, pictures.device
    corner = torch.arange(side, device=device) * cell
    down = corner.repeat_interleave(side) + offsets[..., 0]  # (B, side * side)
    across = corner.repeat(side) + offsets[..., 1]
    reach = torch.arange(edge, device=device)
    rows, columns = down[..., None] + reach, across[..., None] + reach  # (B, T, edge)
    row = torch.arange(len(pictures), device=device)[:, None, None, None]
    last = pictures.permute(0, 2, 3, 1)  # (B, S, S, C): the indexed dimensions first
    return last[row, rows[..., :, None], columns[..., None, :]].permute(0, 1, 4, 2, 3)


def shuffled(tiles: Tensor, order: Tensor) -> Tensor:
    """(B, T, ...) in another order: place i of the result holds tile `order[:, i]`."""
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], order]


def mosaic(tiles: Tensor, side: int, gap: int) -> Tensor:
    """(B, side * side, C, E, E) laid out as pictures (B, C, H, H), black gaps between the tiles."""
    framed = torch.nn.functional.pad(tiles, (0, gap, 0, gap))
    rows, _, channels, edge, _ = framed.shape
    laid = framed.view(rows, side, side, channels, edge, edge).permute(0, 3, 1, 4, 2, 5)
    whole = laid.reshape(rows, channels, side * edge, side * edge)
    return whole[:, :, : whole.shape[2] - gap, : whole.shape[3] - gap]

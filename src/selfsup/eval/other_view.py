"""What can be known of a picture encoder without any label: whether it finds a picture by another view of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from selfsup.data.augment import Augment
from selfsup.data.draw import Draw
from selfsup.data.pixels import PixelStore
from selfsup.ops.topk import top_k

MOST = 1000  # pictures among which one is looked for


def two_views(store: PixelStore, size: int, seed: int) -> list[np.ndarray]:
    """Two views of up to `MOST` pictures, each (N, S, S, C) uint8: cropped, mirrored and recolored as by SimCLR.

    Whoever was trained on such views is at home here; who was not is judged all the same by whether it knows a picture
    again.
    """
    rows = np.unique(np.linspace(0, len(store) - 1, min(MOST, len(store))).astype(np.int64))
    squares, (height, width) = torch.from_numpy(store.pixels(rows)), store.sizes(rows)
    draw = Draw(seed, -1, torch.from_numpy(rows))
    channels = squares.shape[-1]
    augment = Augment(size=size, blur=0.0)
    found = []
    for name in ("first", "second"):
        view = augment(
            squares, torch.from_numpy(height), torch.from_numpy(width), draw, name, [0.0] * channels, [1.0] * channels
        )
        found.append((view.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    return found


def found_again(encode: Callable[[np.ndarray], Tensor], views: list[np.ndarray]) -> Tensor:
    """(N,) bool: whether the nearest of all second views, by cosine, is the picture's own.

    Args:
        encode: (N, S, S, C) uint8 to (N, D).
        views: of `two_views`.
    """
    first, second = (F.normalize(encode(view).float(), dim=1) for view in views)
    _, nearest = top_k(first, second, 1)
    return nearest[:, 0] == torch.arange(len(first))

"""Regions of pictures that are taken out, and what smoothness alone puts there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 5  # heights along an edge between which the landscape of `blob_holes` is smooth


def block_holes(numbers: Tensor, size: int, share: float) -> Tensor:
    """One rectangle in each picture, between 3:4 and 4:3, at a random place.

    Args:
        numbers: (B, 3) uniform: height, place down, place across.
        size: edge of the pictures in pixels.
        share: of the area that is taken out.

    Returns:
        (B, 1, S, S) bool, true where something is missing.
    """
    edge = share**0.5 * size
    height = ((0.75 + numbers[:, 0] * (4 / 3 - 0.75)) ** 0.5 * edge).round().clamp(1, size)
    width = (edge * edge / height).round().clamp(1, size)
    place = torch.arange(size, device=numbers.device)
    inside = []
    for length, number in ((height, numbers[:, 1]), (width, numbers[:, 2])):
        start = (number * (size - length + 1)).floor()[:, None]
        inside.append((place >= start) & (place < start + length[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def blob_holes(heights: Tensor, size: int, share: float) -> Tensor:
    """Regions of any shape: where a smooth random landscape is highest.

    Args:
        heights: (B, G, G) uniform, of a coarse grid.
        size: edge of the pictures in pixels.
        share: of the area that is taken out, to the pixel the same in every picture.

    Returns:
        (B, 1, S, S) bool, true where something is missing.
    """
    landscape = F.interpolate(heights[:, None], size=(size, size), mode="bicubic", align_corners=True).flatten(1)
    highest = landscape.topk(max(round(share * size * size), 1), dim=1).indices
    return torch.zeros_like(landscape, dtype=torch.bool).scatter_(1, highest, True).view(-1, 1, size, size)


def smooth_fill(pictures: Tensor, hole: Tensor) -> Tensor:
    """Holes filled by bilinear interpolation from around them, whatever their shape: pull and push.

    Gortler, Grzeszczuk, Szeliski, Cohen 1996, "The Lumigraph" (section 3.4): pictures are halved, each time by the mean
    of the pixels that are known, until none is missing; on the way back what is missing is interpolated.

    Args:
        pictures: (B, C, H, W); what stands in the holes does not matter.
        hole: (B, 1, H, W) bool, true where something is missing.

    Returns:
        (B, C, H, W), outside of the holes as it was.
    """
    known = (~hole).to(pictures.dtype)
    value = torch.where(hole, 0.0, pictures)
    levels = [(value, known)]
    while max(value.shape[2:]) > 1:
        odd = (0, value.shape[3] % 2, 0, value.shape[2] % 2)
        value, weight = F.pad(value * known, odd), F.pad(known, odd)
        total = F.avg_pool2d(weight, 2)  # a quarter of the known pixels under each
        value = F.avg_pool2d(value, 2) / total.clamp(min=1e-6)
        known = (4 * total).clamp(max=1.0)  # one known pixel makes a known one
        levels.append((value, known))
    filled = levels[-1][0]
    for value, known in levels[-2::-1]:
        coarse = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)
        filled = known * value + (1 - known) * coarse[..., : value.shape[2], : value.shape[3]]
    return torch.where(hole, filled, pictures)

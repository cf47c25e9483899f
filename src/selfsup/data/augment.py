"""Augmented views of whole batches of pictures: crop, flip, color, blur, solarize, normalize.

The operations and their settings are those of SimCLR (Chen et al. 2020, arXiv:2002.05709, appendix A), solarization
is BYOL's (Grill et al. 2020, arXiv:2006.07733, appendix B). Brightness, contrast, saturation, hue and gray are
linear in the colors of a picture and its mean gray, so all of them together are one small matrix a picture.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from selfsup.data.crops import crop_boxes, crop_resize, precise
from selfsup.data.draw import Draw
from selfsup.errors import UserError
from selfsup.ops.compiled import compiled, over_rows

logger = logging.getLogger("selfsup")

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how much red, green and blue count in gray
Floats: TypeAlias = "Tensor | Sequence[float]"
NUMBERS = 14  # random numbers a view: four of the crop, and one of each name in `Augment.__call__`


@functools.cache
def _notice() -> None:
    """Said once a process, whatever the number of views."""
    logger.warning("pictures of other than 1 or 3 channels are cropped, flipped and blurred; their colors stay")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How one view of a picture is made.

    The order is fixed: crop, flip, brightness, contrast, saturation, hue, gray, blur, solarize, normalize. (SimCLR
    draws the order of the four in the middle; only the place of hue would matter without clipping.) Brightness,
    contrast, saturation and gray equal torchvision's `adjust_*` as long as nothing clips: values are clipped to
    [0, 1] once, after gray, not after each. Hue is a rotation about the gray axis, another augmentation than
    a shift of the hue in HSV: it keeps the mean of the three colors, and grays as they are.

    With one channel saturation, hue and gray drop out; with two or more than three also brightness, contrast and
    solarization, which is logged once.

    Attributes:
        size: side of the view in pixels.
        crop_scale: range of the share of the area; SimCLR has 0.08, which is much for small pictures; 0.2 is
            MoCo v2's (Chen et al. 2020, arXiv:2003.04297).
        crop_ratio: range of width / height.
        flip: probability of a mirror image.
        jitter: probability that brightness, contrast, saturation and hue change.
        strength: what the next four are multiplied with; 1 for ImageNet, 0.5 for CIFAR (SimCLR, appendix B.9).
        brightness, contrast, saturation: the factor is uniform in 1 - this to 1 + this.
        hue: largest rotation either way, as a share of a full turn.
        gray: probability that the color goes.
        blur, blur_sigma: probability of a Gaussian blur (kernel: a tenth of the size), range of its sd in pixels.
        solarize: probability that the values from `solarize_threshold` on are inverted.

    Raises:
        UserError: on construction, for a value out of its range.
    """

    size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    strength: float = 0.5
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    gray: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    solarize_threshold: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.size < 2:
            raise UserError(f"size {self.size}: a view has 2 pixels a side or more, such as size=32")
        given = vars(self)
        for name in [name for name in given if name not in ("size", "crop_scale", "crop_ratio", "blur_sigma")]:
            most = 10 if name in ("strength", "brightness", "contrast", "saturation", "hue") else 1
            if not 0 <= given[name] <= most:
                raise UserError(f"{name} {given[name]}: allowed is 0 to {most}, such as {name}=0.2")
        for name, most in (("crop_scale", 1.0), ("crop_ratio", 100.0), ("blur_sigma", 100.0)):
            low, high = given[name]
            if not 0 < low <= high <= most:
                raise UserError(f"{name} {low}, {high}: allowed are two rising numbers, above 0 and up to {most:g}")

    def __call__(
        self, images: Tensor, height: Tensor, width: Tensor, draw: Draw, name: str, mean: Floats, sd: Floats
    ) -> Tensor:
        """One view of each picture; on a CPU a row's view is the same, bit for bit, in any batch.

        Args:
            images: (B, R, R, C) uint8, squashed to squares.
            height: (B,) height of the original pictures.
            width: (B,) width of the original pictures.
            draw: the random numbers of these rows.
            name: stream of this view; another name gives another view.
            mean: (C,) of the pictures in [0, 1], which normalization takes away.
            sd: (C,) by which it divides.

        Returns:
            (B, C, S, S) float32.
        """
        channels, device = images.shape[3], images.device
        numbers = draw.to(device).uniform(name, NUMBERS)
        boxes = crop_boxes(numbers, height, width, self.crop_scale, self.crop_ratio)
        flip, jitter, brightness, contrast, saturation, hue, gray, blur, sigma, solarize = numbers[:, 4:].unbind(1)
        pictures = crop_resize(images, boxes, flip < self.flip, self.size)
        jittered = jitter < self.jitter
        matrix = color_matrix(
            _factor(brightness, self.strength * self.brightness, jittered),
            _factor(contrast, self.strength * self.contrast, jittered),
            _factor(saturation, self.strength * self.saturation, jittered),
            (2 * precise(hue) - 1) * self.strength * self.hue * jittered,
            gray < self.gray,
            channels if max(self.jitter, self.gray) > 0 else 0,
        )
        threshold = self.solarize_threshold
        if channels not in (1, 3) and max(self.jitter, self.gray, self.solarize) > 0:
            threshold = math.inf
            _notice()
        low, high = self.blur_sigma
        finish = _finish if device.type == "cpu" else finish_by_matrix
        return finish(
            pictures,
            matrix,
            blur_taps(torch.where(blur < self.blur, low + precise(sigma) * (high - low), 0), max(1, self.size // 20)),
            torch.where(solarize < self.solarize, threshold, math.inf).float(),
            torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device).expand(channels) for x in (mean, sd)]),
        )


def _factor(number: Tensor, amount: float, applies: Tensor) -> Tensor:
    """(B,) float64: uniform in 1 - amount to 1 + amount, never below 0; 1 where it does not apply."""
    low = max(0.0, 1 - amount)
    return torch.where(applies, low + precise(number) * (1 + amount - low), 1.0)


def color_matrix(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor, gray: Tensor, channels: int
) -> Tensor:
    """Brightness, contrast, saturation, hue and gray, in this order, as one matrix a picture.

    Args:
        brightness: (B,) factor of the values.
        contrast: (B,) factor of the distance from the mean gray of the picture.
        saturation: (B,) factor of the distance of a pixel from its gray.
        turn: (B,) rotation about the gray axis as a share of a full turn; a third makes red green.
        gray: (B,) bool.
        channels: C of the pictures.

    Returns:
        (B, C, C + 1) float32, to be applied to the colors of a pixel and the mean gray of its picture;
        (B, 0, 1) where C is neither 1 nor 3: colors stay as they are.
    """
    gain, shift = brightness * contrast, (brightness * (1 - contrast))[:, None, None]
    if channels == 1:
        return torch.cat([gain[:, None, None], shift], dim=2).float()
    if channels != 3:
        return shift[:, :0].float()
    luma, cross = gain.new_tensor(LUMA), gain.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    circle = torch.polar(torch.ones_like(turn), 2 * math.pi * turn)[:, None, None]  # Rodrigues' formula
    cosine, sine = circle.real, circle.imag
    hue = cosine * torch.eye(3, device=gain.device) + (1 - cosine) / 3 + sine * (cross / math.sqrt(3))
    kept = saturation[:, None, None]
    matrix = kept * hue + (1 - kept) * luma  # hue after saturation; gray stays where it is
    to_gray = luma[0] * matrix[:, :1] + luma[1] * matrix[:, 1:2] + luma[2] * matrix[:, 2:]
    matrix = torch.where(gray[:, None, None], to_gray, matrix) * gain[:, None, None]
    return torch.cat([matrix, shift.expand(-1, 3, 1)], dim=2).float()


def blur_taps(sigma: Tensor, radius: int) -> Tensor:
    """(B, radius + 1) float32: weights of a Gaussian kernel of 2 radius + 1 pixels, from its center outward.

    A sigma of 0 gives 1, 0, 0, ...: no blur.
    """
    distance = torch.arange(radius + 1, device=sigma.device)
    weights = torch.pow(math.e, -0.5 * (distance / sigma[:, None].clamp(min=1e-3)) ** 2)
    return (weights / (2 * weights.sum(dim=1) - weights[:, 0])[:, None]).float()


def finish_by_matrix(pictures: Tensor, matrix: Tensor, taps: Tensor, solarize: Tensor, norm: Tensor) -> Tensor:
    """What follows the crop, as batched matrix products for devices that are made for these.

    From pictures (B, C, S, S) in [0, 1], matrix (B, C, C + 1) of `color_matrix`, taps (B, radius + 1) of `blur_taps`,
    solarize (B,), values from which on are inverted, and norm (2, C), mean and sd, to (B, C, S, S) float32.
    """
    channels, size = pictures.shape[1:3]
    with torch.autocast(pictures.device.type, enabled=False):
        if matrix.shape[1]:
            luma = pictures.new_tensor(LUMA if channels == 3 else (1.0,))
            mean_gray = (pictures.mean(dim=(2, 3)) @ luma)[:, None, None]  # (B, 1, 1)
            colored = torch.baddbmm(matrix[:, :, channels:] * mean_gray, matrix[:, :, :channels], pictures.flatten(2))
            pictures = colored.view_as(pictures).clamp(0, 1)
        rows = (taps[:, 1] > 0).nonzero()[:, 0]  # most of the cost: only the rows that blur
        radius = taps.shape[1] - 1
        place = torch.arange(size, device=pictures.device)
        reach = torch.arange(-radius, radius + 1, device=pictures.device)
        source = size - 1 - (size - 1 - (place[:, None] + reach).abs()).abs()  # (S, K), the edge is not repeated
        band = (source[..., None] == place).float()  # (S, K, S)
        blur = torch.einsum("nk,ykq->nyq", taps[rows][:, reach.abs()], band)
        blurred = torch.einsum("nyq,ncqr->ncyr", blur, pictures[rows])
        pictures = pictures.index_copy(0, rows, torch.einsum("ncyr,nxr->ncyx", blurred, blur))
    pictures = torch.where(pictures >= solarize[:, None, None, None], 1 - pictures, pictures)
    return (pictures - norm[0, :, None, None]) / norm[1, :, None, None]


def _finish(pictures: Tensor, matrix: Tensor, taps: Tensor, solarize: Tensor, norm: Tensor) -> Tensor:
    """`finish_by_matrix` on the CPU, picture by picture; in place where `pictures` are contiguous."""
    arrays = [tensor.contiguous().numpy() for tensor in (pictures, matrix, taps, solarize)]
    over_rows(lambda start, stop: _finish_rows(*(a[start:stop] for a in arrays), norm.numpy()), len(pictures))
    return torch.from_numpy(arrays[0])


@compiled
def _recolor(picture: np.ndarray, matrix: np.ndarray) -> None:
    """Color of one picture (C, P) in place, C 1 or 3."""
    channels, pixels = picture.shape
    shift = np.zeros(channels, np.float32)
    if matrix[0, channels] != 0:
        mean_gray = 0.0
        for c in range(channels):
            total = 0.0
            for p in range(pixels):
                total += picture[c, p]
            mean_gray += total / pixels * (LUMA[c] if channels == 3 else 1.0)
        shift[:] = matrix[:, channels] * np.float32(mean_gray)
    zero, one = np.float32(0), np.float32(1)
    if channels == 1:
        for p in range(pixels):
            picture[0, p] = min(max(matrix[0, 0] * picture[0, p] + shift[0], zero), one)
        return
    reds, greens, blues = picture[0], picture[1], picture[2]
    for p in range(pixels):
        red, green, blue = reds[p], greens[p], blues[p]
        reds[p] = min(max(matrix[0, 0] * red + matrix[0, 1] * green + matrix[0, 2] * blue + shift[0], zero), one)
        greens[p] = min(max(matrix[1, 0] * red + matrix[1, 1] * green + matrix[1, 2] * blue + shift[1], zero), one)
        blues[p] = min(max(matrix[2, 0] * red + matrix[2, 1] * green + matrix[2, 2] * blue + shift[2], zero), one)


@compiled
def _blur(plane: np.ndarray, taps: np.ndarray, across: np.ndarray) -> None:
    """Blur one channel (S, S) in place; `across` (S, S) is scratch space."""
    size, radius = len(plane), len(taps) - 1
    while radius > 0 and taps[radius] < 1e-8:  # below the resolution of float32: a small sigma needs few taps
        radius -= 1
    if radius == 0:
        return
    padded = np.empty(size + 2 * radius, np.float32)
    for y in range(size):
        source, target = plane[y], across[y]
        padded[radius : radius + size] = source
        for k in range(1, radius + 1):
            padded[radius - k], padded[radius + size - 1 + k] = source[k], source[size - 1 - k]
        for x in range(size):
            target[x] = taps[0] * source[x]
        for k in range(1, radius + 1):
            tap, left, right = taps[k], padded[radius - k :], padded[radius + k :]
            for x in range(size):
                target[x] += tap * (left[x] + right[x])
    for y in range(size):
        source, target = across[y], plane[y]
        for x in range(size):
            target[x] = taps[0] * source[x]
        for k in range(1, radius + 1):
            tap, above, below = taps[k], across[abs(y - k)], across[size - 1 - abs(size - 1 - y - k)]
            for x in range(size):
                target[x] += tap * (above[x] + below[x])


@compiled
def _finish_rows(
    pictures: np.ndarray, matrix: np.ndarray, taps: np.ndarray, solarize: np.ndarray, norm: np.ndarray
) -> None:
    """See `finish_by_matrix`; in place."""
    count, channels, size, _ = pictures.shape
    scratch = np.empty((size, size), np.float32)
    for b in range(count):
        picture = pictures[b].reshape(channels, size * size)
        if matrix.shape[1]:
            _recolor(picture, matrix[b])
        for c in range(channels):
            _blur(pictures[b, c], taps[b], scratch)
            plane, mean, sd = picture[c], norm[0, c], norm[1, c]
            for p in range(len(plane)):
                value = 1 - plane[p] if plane[p] >= solarize[b] else plane[p]
                plane[p] = (value - mean) / sd

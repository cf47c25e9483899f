"""Random resized crops of whole batches: crop, antialiased resize and flip in one pass over uint8 pictures.

On the CPU one compiled kernel reads each picture once; on any other device the same weights are two batched
matrix products. Both give the antialiased bilinear resize of Pillow and torchvision, without rounding in between.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from selfsup.ops.compiled import compiled, over_rows


def precise(numbers: Tensor) -> Tensor:
    """`numbers` in float64, where the device has it.

    Vector and scalar code give logarithms and sines that differ in the last bit, and which of them serves a row
    depends on its place in the batch. Computed in float64 and rounded to float32 they agree. (Powers and `rsqrt`
    stand where `exp`, `log` and `sqrt` could: torch hands those to a library whose threads then spin for 2 ms.)
    """
    return numbers if numbers.device.type == "mps" else numbers.double()


def crop_boxes(
    numbers: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes of random resized crops (Szegedy et al. 2015, arXiv:1409.4842), in closed form.

    The area share is uniform in `scale` and the logarithm of width / height uniform in `ratio`, both meant for the
    original picture: cropping from the squashed one undoes the squash. Torchvision draws both, tries again up to
    ten times when the crop does not fit, and then takes the largest centered crop. Here the range of the area ends
    at the largest that fits with an allowed ratio, and the range of the ratio at what fits for the area drawn.
    So the crops possible are the same and given its area a crop has the same distribution, but large areas,
    which torchvision rejects more often, are not rarer here, and where even the smallest area does not fit the largest
    possible crop has a random place in place of the center. Nothing is rounded to whole pixels.

    Args:
        numbers: (B, k) uniform in [0, 1), k >= 4; the first four are used: area, ratio, top, left.
        height: (B,) height of the original pictures.
        width: (B,) width of the original pictures.
        scale: smallest and largest share of the area, in (0, 1].
        ratio: smallest and largest width / height of a crop.

    Returns:
        (B, 4) float32: top, left, height, width as shares of the picture.
    """
    share, slant, down, across = precise(numbers[:, :4]).unbind(1)
    aspect = precise(width) / precise(height)  # (B,)
    fits = torch.minimum(ratio[1] / aspect, aspect / ratio[0]).clamp(max=1)
    low, high = fits.clamp(max=scale[0]), fits.clamp(max=scale[1])
    area = low + share * (high - low)
    low, high = (aspect * area).clamp(min=ratio[0]), (aspect / area).clamp(max=ratio[1])
    shape = low * (high / low) ** slant / aspect  # (B,) width / height in the squashed picture
    root = torch.rsqrt(area * shape)
    tall, wide = (area * root).clamp(max=1), (area * shape * root).clamp(max=1)
    return torch.stack([down * (1 - tall), across * (1 - wide), tall, wide], dim=1).float()


def crop_resize(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crop, resize with antialiasing and mirror each picture.

    The filter is Pillow's: a triangle as wide as one output pixel, never narrower than one input pixel, that
    looks beyond the edge of the box where there is picture.

    Args:
        images: (B, R, R, C) uint8.
        boxes: (B, 4) float32: top, left, height, width as shares of the picture, inside of it.
        flip: (B,) bool, mirror left and right.
        size: side S of the result in pixels.

    Returns:
        (B, C, S, S) float32 in [0, 1].
    """
    if images.device.type != "cpu":
        return crop_resize_by_matrix(images, boxes, flip, size)
    result = torch.empty(len(images), images.shape[3], size, size, dtype=torch.float32)
    arrays = [tensor.contiguous().numpy() for tensor in (images, boxes, flip, result)]
    over_rows(lambda start, stop: _crop_resize(*(array[start:stop] for array in arrays)), len(images))
    return result


def crop_resize_by_matrix(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """`crop_resize` as two batched matrix products, for devices that are made for these; equal but for rounding."""
    rows = resize_weights(boxes[:, 0], boxes[:, 2], images.shape[1], size)  # (B, S, R)
    columns = resize_weights(boxes[:, 1], boxes[:, 3], images.shape[2], size)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    with torch.autocast(images.device.type, enabled=False):  # eight bits of mantissa would show as noise
        pictures = torch.einsum("byr,brqc->bcyq", rows, images.float())
        return torch.einsum("bcyq,bxq->bcyx", pictures, columns) / 255


def resize_weights(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """(B, size, pixels): how much each input pixel counts in each output pixel along one axis.

    Args:
        start: (B,) where the box begins, as a share of the axis.
        length: (B,) length of the box, as a share of the axis.
        pixels: input pixels on the axis.
        size: output pixels on the axis.
    """
    steps = precise(length) * pixels / size  # (B,) input pixels an output pixel
    output = torch.arange(size, dtype=torch.float32, device=start.device) + 0.5
    centers = precise(start)[:, None] * pixels + output * steps[:, None]  # (B, S)
    whole = centers.floor()  # apart, so that the large difference is exact in float32
    input_ = torch.arange(pixels, dtype=torch.float32, device=start.device) + 0.5
    distance = (input_ - whole[..., None].float()) - (centers - whole)[..., None].float()  # (B, S, R)
    weights = (1 - distance.abs() / steps.clamp(min=1)[:, None, None].float()).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


def resize(images: Tensor, size: int) -> Tensor:
    """Whole pictures, resized with antialiasing: (B, R, R, C) uint8 to (B, C, S, S) float32 in [0, 1]."""
    if images.shape[1] == size:
        return images.permute(0, 3, 1, 2) / 255  # to the bit what the kernel makes of it
    boxes = torch.tensor([0, 0, 1, 1], dtype=torch.float32, device=images.device).expand(len(images), 4)
    return crop_resize(images, boxes, torch.zeros(len(images), dtype=torch.bool, device=images.device), size)


@compiled
def _taps(start: float, length: float, pixels: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First input pixel (S,) and weights (S, K) of each output pixel along one axis; `start`, `length` in pixels."""
    step = length / size
    support = max(step, 1.0)
    count = min(math.ceil(2 * support), pixels)
    first, weights = np.empty(size, np.int64), np.empty((size, count), np.float32)
    for i in range(size):
        center = start + (i + 0.5) * step
        first[i] = min(max(math.floor(center - support + 0.5), 0), pixels - count)
        total = 0.0
        for k in range(count):
            weight = max(0.0, 1 - abs(first[i] + k + 0.5 - center) / support)
            weights[i, k] = weight
            total += weight
        weights[i] /= np.float32(total)
    return first, weights


@compiled
def _crop_resize_one(picture: np.ndarray, box: np.ndarray, flip: bool, result: np.ndarray) -> None:
    """Fill `result` (C, S, S) float32 from `picture` (R, R, C) uint8, one output row after the other."""
    height, width, channels = picture.shape
    size = result.shape[1]
    top, rows = _taps(box[0] * height, box[2] * height, height, size)
    left, columns = _taps(box[1] * width, box[3] * width, width, size)
    edge, reach = left[0], columns.shape[1]
    source, weights = np.empty(size, np.uint64), np.empty((reach, size), np.float32)
    for x in range(size):
        mirrored = size - 1 - x if flip else x
        source[mirrored] = (left[x] - edge) * channels
        weights[:, mirrored] = columns[x]
    picture = picture.reshape(height, width * channels)[:, edge * channels : (left[-1] + reach) * channels]
    line = np.empty(picture.shape[1], np.float32)
    for y in range(size):
        # Down first: the channels lie side by side, so these loops are plain sums of stretches of memory.
        line[:] = 0
        for k in range(rows.shape[1]):
            share, row = rows[y, k], picture[top[y] + k]
            for j in range(len(line)):
                line[j] += share * row[j]
        for c in range(channels):
            target = result[c, y]
            target[:] = 0
            for k in range(reach):
                weight, shifted = weights[k], line[c + k * channels :]
                for x in range(size):
                    target[x] += weight[x] * shifted[source[x]]
            for x in range(size):
                target[x] /= np.float32(255)


@compiled
def _crop_resize(images: np.ndarray, boxes: np.ndarray, flip: np.ndarray, result: np.ndarray) -> None:
    """`_crop_resize_one` for images (B, R, R, C), boxes (B, 4), flip (B,), result (B, C, S, S)."""
    for b in range(len(images)):
        _crop_resize_one(images[b], boxes[b], flip[b], result[b])

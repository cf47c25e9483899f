"""Crops against Pillow and torchvision, and against themselves: two ways, any batch, any number of threads."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from selfsup.data.crops import crop_boxes, crop_resize, crop_resize_by_matrix, resize

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def pictures(rows: int, pixels: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(pixels)
    return torch.randint(0, 256, (rows, pixels, pixels, channels), dtype=torch.uint8, generator=generator)


def boxes(rows: int, height: int = 100, width: int = 100) -> torch.Tensor:
    numbers = torch.rand(rows, 4, generator=torch.Generator().manual_seed(rows))
    return crop_boxes(numbers, torch.full((rows,), height), torch.full((rows,), width), SCALE, RATIO)


def flips(rows: int) -> torch.Tensor:
    return torch.arange(rows) % 2 == 0


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("pixels", "size"), [(40, 32), (96, 224), (256, 64)])
def test_equals_pillow(pixels, size):
    images, areas = pictures(6, pixels), boxes(6)
    ours = crop_resize(images, areas, torch.zeros(6, dtype=torch.bool), size)
    for image, (top, left, height, width), view in zip(images, (areas * pixels).tolist(), ours, strict=True):
        edges = (left, top, min(left + width, pixels), min(top + height, pixels))
        theirs = Image.fromarray(image.numpy()).resize((size, size), Image.Resampling.BILINEAR, box=edges)
        difference = view.permute(1, 2, 0) * 255 - torch.from_numpy(np.array(theirs)).float()
        # Pillow rounds after each of the two passes: errors even in -0.5 to 0.5, summed, are 1/3 off in the mean.
        assert difference.abs().mean() < 0.4
        assert difference.abs().max() < 1.1
        assert difference.mean().abs() < 0.05


def test_whole_picture_of_equal_size_is_exact():
    images = pictures(3, 24)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    assert torch.equal(resize(images, 24), crop_resize(images, boxes, torch.zeros(3, dtype=torch.bool), 24))
    assert torch.equal(resize(images, 24), images.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("size", [1, 10, 50])
def test_resize_equals_torch_antialias(size):
    images = pictures(2, 33)
    theirs = torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2) / 255, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(resize(images, size), theirs, rtol=0, atol=1e-5)


def test_flip_is_an_exact_mirror():
    images, areas = pictures(5, 40), boxes(5)
    plain = crop_resize(images, areas, torch.zeros(5, dtype=torch.bool), 32)
    mirrored = crop_resize(images, areas, torch.ones(5, dtype=torch.bool), 32)
    assert torch.equal(mirrored, plain.flip(3))
    assert not torch.equal(mirrored, plain)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("pixels", "size"), [(40, 32), (96, 224), (256, 64), (250, 8), (3, 7)])
def test_matrices_equal_the_kernel(pixels, size, channels):
    images, areas = pictures(4, pixels, channels), boxes(4)
    kernel = crop_resize(images, areas, flips(4), size)
    matrices = crop_resize_by_matrix(images, areas, flips(4), size)
    assert kernel.shape == matrices.shape == (4, channels, size, size)
    assert kernel.dtype == matrices.dtype == torch.float32
    assert (kernel - matrices).abs().max() < 1e-5


def test_matrices_ignore_autocast():
    images, areas = pictures(2, 40), boxes(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = crop_resize_by_matrix(images, areas, flips(2), 32)
    assert torch.equal(inside, crop_resize_by_matrix(images, areas, flips(2), 32))


def test_rows_and_threads_change_nothing(torch_threads):
    images, areas, flip = pictures(13, 40), boxes(13), flips(13)
    whole = crop_resize(images, areas, flip, 32)
    for threads in (1, 2, 5):
        torch_threads(threads)
        assert torch.equal(crop_resize(images, areas, flip, 32), whole)
        parts = [crop_resize(images[i:j], areas[i:j], flip[i:j], 32) for i, j in ((0, 1), (1, 8), (8, 13))]
        assert torch.equal(torch.cat(parts), whole)
    assert crop_resize(images[:0], areas[:0], flip[:0], 32).shape == (0, 3, 32, 32)


def test_works_in_threads_and_forked_workers(torch_threads):
    torch_threads(2)
    images, areas, flip = pictures(16, 40), boxes(16), flips(16)
    whole = crop_resize(images, areas, flip, 32)
    results: dict[int, torch.Tensor] = {}
    workers = [
        threading.Thread(target=lambda i=i: results.update({i: crop_resize(images, areas, flip, 32)})) for i in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(results[i], whole) for i in range(4))

    child = os.fork()
    if child == 0:  # never returns into pytest, nor waits for threads that the fork has left behind
        signal.alarm(20)
        code = 1
        try:  # compared by numpy: torch's own threads do not live on in a child
            code = 0 if np.array_equal(crop_resize(images, areas, flip, 32).numpy(), whole.numpy()) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(("height", "width"), [(100, 100), (300, 400), (1000, 150), (150, 1000)])
def test_boxes_lie_inside_and_keep_area_and_ratio(height, width):
    rows = 2000
    top, left, tall, wide = boxes(rows, height, width).double().unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + tall).max(), (left + wide).max()) <= 1 + 1e-6
    ratio = wide * width / (tall * height)
    assert ratio.min() > RATIO[0] - 1e-5
    assert ratio.max() < RATIO[1] + 1e-5
    area = tall * wide
    largest = min(1.0, RATIO[1] * height / width, width / (height * RATIO[0]))
    assert area.min() > min(SCALE[0], largest) - 1e-5
    assert area.max() < largest + 1e-5
    assert area.max() > 0.98 * largest


def test_boxes_are_distributed_as_torchvision_where_all_fits():
    rows, scale, ratio = 4000, (0.1, 0.5), (0.8, 1.25)
    numbers = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    size = torch.full((rows,), 2000)
    ours = crop_boxes(numbers, size, size, scale, ratio).double()
    torch.manual_seed(0)
    image = torch.empty(1, 2000, 2000)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(rows)]) / 2000
    area, shape = ours[:, 2] * ours[:, 3], (ours[:, 3] / ours[:, 2]).log()
    for a, b in zip(
        (*ours.unbind(1), area, shape),
        (*theirs.unbind(1), theirs[:, 2] * theirs[:, 3], (theirs[:, 3] / theirs[:, 2]).log()),
        strict=True,
    ):
        error = ((a.var() + b.var()) / rows).sqrt()
        assert (a.mean() - b.mean()).abs() < 4 * error
        assert abs(a.std() / b.std() - 1) < 0.06

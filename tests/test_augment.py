"""Augmented views against torchvision's single operations, and their probabilities, purity and refusals."""

from __future__ import annotations

import logging
import math

import pytest
import torch
import torchvision.transforms.functional as reference

from selfsup.data import augment as module
from selfsup.data.augment import Augment, blur_taps, color_matrix, finish_by_matrix
from selfsup.data.crops import resize
from selfsup.data.draw import Draw
from selfsup.errors import UserError

WHOLE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}
OFF = {"jitter": 0.0, "gray": 0.0, "blur": 0.0}


def pictures(rows: int, pixels: int = 40, channels: int = 3, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(low, high, (rows, pixels, pixels, channels), dtype=torch.uint8, generator=generator)


def view(augment: Augment, images: torch.Tensor, rows: torch.Tensor | None = None, name: str = "one") -> torch.Tensor:
    draw = Draw(3, 0, torch.arange(len(images)) if rows is None else rows)
    side, channels = torch.full((len(images),), 100), images.shape[3]
    return augment(images, side, side, draw, name, torch.zeros(channels), torch.ones(channels))


def finish(images: torch.Tensor, matrix: torch.Tensor, sigma: torch.Tensor, radius: int = 1) -> torch.Tensor:
    """Both ways from the crop to the view, of pictures (B, C, S, S), which have to agree."""
    rows, channels = images.shape[:2]
    solarize, norm = torch.full((rows,), math.inf), torch.tensor([[0.0], [1.0]]).expand(2, channels).contiguous()
    arguments = (matrix, blur_taps(sigma, radius), solarize, norm)
    ours = module._finish(images.clone(), *arguments)
    assert (ours - finish_by_matrix(images, *arguments)).abs().max() < 1e-5
    return ours


FACTORS = torch.tensor([0.7, 1.0, 1.3, 1.15], dtype=torch.float64)
ONES, ZEROS, NEVER = torch.ones_like(FACTORS), torch.zeros_like(FACTORS), torch.zeros(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("adjust", "arguments"),
    [
        (reference.adjust_brightness, (FACTORS, ONES, ONES)),
        (reference.adjust_contrast, (ONES, FACTORS, ONES)),
        (reference.adjust_saturation, (ONES, ONES, FACTORS)),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_equals_torchvision(adjust, arguments):
    images = pictures(4, 32, low=90, high=160).permute(0, 3, 1, 2) / 255
    ours = finish(images, color_matrix(*arguments, ZEROS, NEVER, 3), ZEROS)
    theirs = torch.stack([adjust(image, float(factor)) for image, factor in zip(images, FACTORS, strict=True)])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)  # torchvision's shares of gray sum to 0.9999
    assert (ours - images).abs().max() > 0.02


def test_order_of_operations_equals_torchvision():
    images = pictures(4, 32, low=100, high=150).permute(0, 3, 1, 2) / 255
    gray = torch.tensor([True, False, True, False])
    ours = finish(images, color_matrix(FACTORS, FACTORS.flip(0), FACTORS.roll(1), ZEROS, gray, 3), ZEROS)
    for i, image in enumerate(images):
        theirs = reference.adjust_brightness(image, float(FACTORS[i]))
        theirs = reference.adjust_contrast(theirs, float(FACTORS.flip(0)[i]))
        theirs = reference.adjust_saturation(theirs, float(FACTORS.roll(1)[i]))
        if gray[i]:
            theirs = reference.rgb_to_grayscale(theirs, num_output_channels=3)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=3e-4)


def test_one_channel_equals_torchvision():
    images = pictures(4, 32, 1, low=90, high=150).permute(0, 3, 1, 2) / 255
    gray = torch.ones(4, dtype=torch.bool)
    ours = finish(images, color_matrix(FACTORS, FACTORS.flip(0), FACTORS, FACTORS, gray, 1), ZEROS)
    for i, image in enumerate(images):
        theirs = reference.adjust_brightness(image, float(FACTORS[i]))
        theirs = reference.adjust_contrast(theirs, float(FACTORS.flip(0)[i]))
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-5)


def test_colors_are_clipped():
    images = pictures(4, 16).permute(0, 3, 1, 2) / 255
    ours = finish(images, color_matrix(2 * ONES, 2 * ONES, ONES, ZEROS, NEVER, 3), ZEROS)
    assert ours.min() == 0
    assert ours.max() == 1


def test_hue_turns_about_the_gray_axis():
    turn = torch.tensor([0.0, 1 / 3, -1 / 3, 1 / 12], dtype=torch.float64)
    matrix = color_matrix(ONES, ONES, ONES, turn, NEVER, 3)[:, :, :3]
    red, green, blue = torch.eye(3)
    for i, color in enumerate((red, green, blue)):
        torch.testing.assert_close(matrix[i] @ red, color, rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix[3] @ matrix[3] @ matrix[3] @ matrix[3], matrix[1], rtol=0, atol=1e-6)
    for one in matrix:
        torch.testing.assert_close(one @ torch.ones(3), torch.ones(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(one @ one.T, torch.eye(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "radius"), [(32, 1), (33, 4), (48, 11), (12, 11)])
def test_blur_equals_torchvision(size, radius):
    images = pictures(4, size).permute(0, 3, 1, 2) / 255
    sigma = torch.tensor([0.1, 0.5, 1.3, 2.0], dtype=torch.float64)
    ours = finish(images, color_matrix(ONES, ONES, ONES, ZEROS, NEVER, 3), sigma, radius)
    theirs = [
        reference.gaussian_blur(image, [2 * radius + 1] * 2, [float(one)])
        for image, one in zip(images, sigma, strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=0, atol=2e-6)


def test_a_row_without_blur_stays():
    images = pictures(4, 32).permute(0, 3, 1, 2) / 255
    assert torch.equal(finish(images, color_matrix(ONES, ONES, ONES, ZEROS, NEVER, 3), ZEROS, 4), images)


def test_solarize_equals_torchvision():
    images = pictures(5)
    ours = view(Augment(size=40, **WHOLE, **OFF, solarize=1.0, solarize_threshold=0.3), images)
    theirs = reference.solarize(images.permute(0, 3, 1, 2) / 255, 0.3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_normalizes():
    images, side = pictures(3), torch.full((3,), 40)
    augment, draw = Augment(size=32, **WHOLE, **OFF), Draw(0, 0, torch.arange(3))
    mean, sd = [0.1, 0.2, 0.3], (0.4, 0.5, 0.6)
    ours = augment(images, side, side, draw, "one", mean, sd)
    torch.testing.assert_close(ours, reference.normalize(resize(images, 32), mean, list(sd)))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_row_does_not_depend_on_its_batch_or_the_threads(channels):
    images = pictures(24, channels=channels)
    augment = Augment(size=32, solarize=0.2)
    whole = view(augment, images)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for step in (1, 4, 7, 24):
                parts = [
                    view(augment, part, rows)
                    for part, rows in zip(images.split(step), torch.arange(24).split(step), strict=True)
                ]
                assert torch.equal(torch.cat(parts), whole)
    finally:
        torch.set_num_threads(before)


def test_same_draw_same_view_and_another_name_another():
    images, augment = pictures(8), Augment(size=32)
    assert torch.equal(view(augment, images), view(augment, images))
    assert not torch.equal(view(augment, images), view(augment, images, name="two"))
    kept = images.clone()
    view(augment, images)
    assert torch.equal(images, kept)
    same = view(augment, images[:1].expand(8, -1, -1, -1))
    assert all(not torch.equal(same[0], other) for other in same[1:])


def share(different: torch.Tensor, p: float) -> None:
    """Assert that a share p of the rows differs, within 4 standard deviations."""
    assert abs(different.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / len(different))


@pytest.mark.parametrize("name", ["flip", "jitter", "gray", "blur", "solarize"])
def test_probabilities(name):
    images, p = pictures(1, 8).expand(4000, -1, -1, -1), 0.3
    settings = {**WHOLE, **OFF, "blur_sigma": (1.0, 2.0), name: p}
    views = view(Augment(size=8, **settings), images)
    changed = (views != resize(images[:1], 8)).flatten(1).any(dim=1)
    share(changed, p)
    if name == "gray":
        assert (views[changed].std(dim=1) < 1e-6).all()
    if name == "flip":
        assert torch.equal(views[changed][0], resize(images[:1], 8)[0].flip(2))


def test_default_settings_are_those_of_the_paper():
    augment = Augment(size=32)
    assert (augment.flip, augment.jitter, augment.gray, augment.blur, augment.solarize) == (0.5, 0.8, 0.2, 0.5, 0.0)
    gray = torch.full((4000, 4, 4, 3), 64, dtype=torch.uint8)
    views = view(Augment(size=4, **WHOLE, jitter=1.0, gray=0.0, blur=0.0), gray)[:, 0, 0, 0] * 255 / 64
    # A uniform picture shows brightness alone: the factor is uniform in 0.6 to 1.4.
    assert 0.6 - 1e-5 <= views.min() < 0.605
    assert 1.395 < views.max() <= 1.4 + 1e-5
    assert abs(views.mean() - 1) < 4 * 0.8 / math.sqrt(12 * 4000)


def test_the_color_of_many_channels_stays_with_one_notice(caplog):
    module._notice.cache_clear()
    images = pictures(4, channels=5)
    with caplog.at_level(logging.WARNING, logger="selfsup"):
        views = view(Augment(size=32, **WHOLE, jitter=1.0, gray=1.0, solarize=1.0, blur=0.0), images)
        view(Augment(size=32), images[..., :2])
    assert torch.equal(views, resize(images, 32))
    assert len(caplog.records) == 1
    assert "channels" in caplog.text


def test_one_or_three_channels_need_no_notice(caplog):
    module._notice.cache_clear()
    view(Augment(size=32), pictures(2, channels=1))
    view(Augment(size=32), pictures(2, channels=3))
    view(Augment(size=32, jitter=0.0, gray=0.0), pictures(2, channels=5))
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 1}, "size 1"),
        ({"flip": 1.5}, "flip 1.5"),
        ({"jitter": -0.1}, "jitter -0.1"),
        ({"gray": math.nan}, "gray nan"),
        ({"strength": -1.0}, "strength -1"),
        ({"hue": math.inf}, "hue inf"),
        ({"solarize_threshold": 128}, "solarize_threshold 128"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale 0.0, 1.0"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale 0.5, 1.5"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio 2.0, 1.0"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma 0.0, 1.0"),
    ],
)
def test_refuses_settings_out_of_range(settings, words):
    with pytest.raises(UserError, match=words) as caught:
        Augment(**{"size": 32, **settings})
    assert "\n" not in str(caught.value)
    assert "allowed" in str(caught.value) or "size=" in str(caught.value)

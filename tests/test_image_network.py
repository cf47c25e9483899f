"""Networks for pictures: patches that fit, and what is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

import selfsup
from selfsup.backbones import ImageBackbone
from selfsup.construct import construct
from selfsup.data.facts import ImageFacts
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.image_network import TRANSFORMERS, chosen, patch_for
from selfsup.loop import Training
from selfsup.objectives import mae, rotation
from selfsup.runtime import Runtime


@pytest.mark.parametrize(
    ("size", "edge"), [(16, 2), (28, 4), (30, 3), (32, 4), (64, 8), (96, 12), (128, 16), (224, 16)]
)
def test_the_dial_cuts_pictures_into_about_eight_by_eight(size: int, edge: int) -> None:
    assert patch_for(size) == edge


def test_sizes_without_patches_are_refused() -> None:
    with pytest.raises(UserError, match=r"--pixels 31 cannot be cut .* type --pixels 32"):
        patch_for(31)


def test_larger_transformers_have_more_weights() -> None:
    weights = []
    for dial in TRANSFORMERS:
        network, arguments = chosen(None, dial, True, None, 32)
        encoder = ImageEncoder.create(network, arguments, 32, (0.5,), (0.2,))
        weights.append(sum(weight.numel() for weight in encoder.module.parameters()))
        assert encoder.patch == 4
    assert weights == sorted(weights) and weights[0] < 2e6


def test_pictures_that_are_not_whole_patches_are_refused() -> None:
    with pytest.raises(UserError, match=r"patches of 16 px, and pictures of 40 px .* --pixels 32 or 48"):
        ImageEncoder.create(*chosen("vit_tiny_patch16_224", "nano", True, None, 40), 40, (0.5,), (0.2,))
    with pytest.raises(UserError, match=r"pictures of 12 px .* type --pixels 16, or another --patch"):
        ImageEncoder.create(*chosen("vit_tiny_patch16_224", "nano", True, None, 12), 12, (0.5,), (0.2,))


def test_patches_of_a_convolutional_network_are_refused() -> None:
    with pytest.raises(UserError, match="--patch 4: resnet10t has no patches"):
        chosen(None, "nano", False, 4, 32)
    with pytest.raises(UserError, match="only one of --patch, --init"):
        selfsup.recipe("mae", data="sample:digits", patch=4, init="run")


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(channels: int) -> None:
    facts = ImageFacts(
        rows=10, channels=channels, resolution=18, size=16, mean=(0.5,) * channels, sd=(0.25,) * channels
    )
    encoder = construct(mae.tiny(), facts, None, None).encoders()["image"]
    assert isinstance(encoder, ImageEncoder) and encoder.about.arguments["in_chans"] == channels


def test_micro_batches_are_refused_with_batch_norm() -> None:
    facts = ImageFacts(rows=100, channels=3, resolution=18, size=16, mean=(0.5,) * 3, sd=(0.25,) * 3)
    tiny = rotation.tiny()
    recipe = replace(tiny, optimizer=replace(tiny.optimizer, micro=2), backbone=ImageBackbone(size="nano"))
    with pytest.raises(UserError, match="--micro 2: batch norm in the network"):
        Training(construct(recipe, facts, None, None), rotation.reader(recipe.config, None), recipe, Runtime("float32"))  # type: ignore[arg-type]

"""Networks for pictures with fresh weights: which ones the dial names, and what small pictures want changed in them."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from selfsup.encoder import evaluating
from selfsup.errors import UserError

SMALL = 64  # pictures below this many pixels get a stem that keeps their resolution

# Narrow ResNets with one block a stage and a stem of three 3 x 3 convolutions that ends in the width of the first
# stage: on a CPU they see several times the pictures of a ResNet-18 in the same minutes (docs/results.md).
CONVOLUTIONAL: dict[str, tuple[str, dict[str, Any]]] = {
    "nano": ("resnet10t", {"stem_width": 8, "channels": (16, 32, 64, 128)}),
    "tiny": ("resnet10t", {"stem_width": 16, "channels": (32, 64, 128, 256)}),
    "small": ("resnet18", {}),
    "base": ("resnet50", {}),
}


# Plain vision transformers; from `tiny` on ViT-Ti, ViT-S and ViT-B (Touvron et al. 2021, "DeiT", table 1).
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "nano": {"embed_dim": 96, "depth": 4, "num_heads": 3},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
GRID = 8  # patches along an edge that the dial aims at


def patch_for(size: int) -> int:
    """The edge of a patch, at most 16 pixels, that cuts a picture into about 8 x 8 patches, or more of large pictures.

    Raises:
        UserError: no edge gives 4 to 16 patches a side (to 32 of pictures above 256 pixels).
    """
    aim = min(size / GRID, 16)
    edges = [p for p in range(1, 33) if size % p == 0 and size // p >= 4 and p <= 2 * aim and aim <= 2 * p]
    if not edges:
        raise UserError(
            f"--pixels {size} cannot be cut into about {GRID} x {GRID} patches; type --pixels {_even(size)}"
        )
    return min(edges, key=lambda p: (max(p / aim, aim / p), p))


def _even(size: int) -> int:
    """The multiple of eight that is nearest to a size, 16 or more."""
    return max(round(size / GRID) * GRID, 2 * GRID)


def chosen(
    network: str | None, dial: str, transformer: bool, patch: int | None, size: int
) -> tuple[str, dict[str, Any]]:
    """Name in timm of a network, and the arguments of its constructor.

    Args:
        network: the user's own choice.
        dial: `nano`, `tiny`, `small` or `base`, in place of one.
        transformer: whether the dial's network has to be one.
        patch: edge of its patches in pixels, where the user named one.
        size: edge of the pictures in pixels.

    Raises:
        UserError: patches were asked of a network that has none.
    """
    if network is None and transformer:
        arguments = {**TRANSFORMERS[dial], "patch_size": patch or patch_for(size), "img_size": size}
        return "vit_tiny_patch16_224", arguments
    name, arguments = (network, {}) if network else CONVOLUTIONAL[dial]
    if name.startswith(("vit", "deit")):
        return name, {**arguments, "img_size": size, **({"patch_size": patch} if patch else {})}
    if patch:
        raise UserError(f"--patch {patch}: {name} has no patches; drop it, or choose --network vit_small_patch16_224")
    return name, arguments


def check_patches(network: str, module: nn.Module, size: int) -> None:
    """Refuse pictures that a transformer cannot cut into whole patches: timm drops the rest in silence.

    Raises:
        UserError: naming sizes that can be.
    """
    if not isinstance(module, VisionTransformer):
        return
    edge = module.patch_embed.patch_size[0]
    if size % edge:
        low, high = size // edge * edge, (size // edge + 1) * edge
        near = f"--pixels {low} or {high}" if low else f"--pixels {high}"
        raise UserError(
            f"{network} sees patches of {edge} px, and pictures of {size} px are not whole numbers of these; "
            f"type {near}, or another --patch"
        )


def keep_resolution(network: nn.Module) -> str | None:
    """Give a timm ResNet a stem of stride 1 without pooling, in place.

    Returns:
        The two lines that do the same to a fresh network named `model`; None for networks without such a stem.
    """
    if not isinstance(network, timm.models.resnet.ResNet):
        return None
    if isinstance(network.conv1, nn.Sequential):
        lines = "model.conv1[0].stride = (1, 1)"
        cast(nn.Conv2d, network.conv1[0]).stride = (1, 1)
    else:
        old = network.conv1
        size = f"{old.in_channels}, {old.out_channels}, 3, padding=1, bias=False"
        lines = f"model.conv1 = torch.nn.Conv2d({size})"
        network.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()  # type: ignore[assignment]
    return f"{lines}\nmodel.maxpool = torch.nn.Identity()"


def pooled_width(module: nn.Module, channels: int, size: int) -> int:
    """Numbers in the vector that a network makes of a picture; timm's `num_features` is another number for some."""
    with evaluating(module):
        device = next(module.parameters()).device
        return int(module(torch.zeros(1, channels, size, size, device=device)).shape[-1])

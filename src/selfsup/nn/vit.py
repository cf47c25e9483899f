"""Passes through timm's plain vision transformers that see only some of the patches."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.ops.patches import patchify, rows_of

Masked: TypeAlias = "tuple[Tensor, Tensor]"


def plain_transformer(encoder: ImageEncoder, objective: str) -> VisionTransformer:
    """The network of an encoder, if patches can be left out of it.

    That is timm's `VisionTransformer`: vit, deit, deit3, clip, dinov2. Its relatives (Eva, BEiT, Swin, Hiera, CaiT,
    distilled DeiT) add what a subset of the patches would get wrong, and where convolutions come first (hybrids) a
    patch knows of its neighbors.

    Raises:
        UserError: it is another one, or pools by attention, which would never be trained.
    """
    network, name = encoder.module, encoder.about.network
    if type(network) is not VisionTransformer or type(network.patch_embed) is not PatchEmbed:
        raise UserError(
            f"{objective} hides patches from a plain vision transformer, which {name} is not; "
            "drop --network, or choose one such as vit_small_patch16_224"
        )
    if network.attn_pool is not None:
        raise UserError(f"{objective} would never train the pooling by attention of {name}; choose another network")
    return network


def states(network: VisionTransformer, pictures: Tensor, masked: Masked | None = None) -> Tensor:
    """(B, P + N, D): the states of a transformer, P prefix tokens first.

    It is `forward_features`, with the norm that some have behind the pooling put before it.

    Args:
        network: see `plain_transformer`.
        pictures: (B, C, S, S) normalized.
        masked: (B, N) bool and (D,), patches that are replaced by a token which keeps their place; None for none.
    """
    x = network.patch_embed(pictures)  # (B, N, D), or (B, h, w, D) where it takes pictures of any size
    if masked is not None:
        where, token = masked
        x = torch.where(where.view(*x.shape[:-1], 1), token.to(x.dtype), x)
    return _behind_positions(network, network._pos_embed(x))


def visible_vectors(network: VisionTransformer, pictures: Tensor, visible: Tensor) -> Tensor:
    """(B, D): the vectors of a transformer that sees only some patches; with all of them, what it gives by itself.

    Li et al. 2023, "FLIP", leave half of the patches out. The arguments are those of `visible_states`.
    """
    x = _with_places(network, pictures, visible)
    for block in (network.norm_pre, *network.blocks):
        x = block(x)
    return network.forward_head(network.norm(x), pre_logits=True)


def visible_states(network: VisionTransformer, pictures: Tensor, visible: Tensor) -> Tensor:
    """(B, P + K, D): the states of a transformer that sees only some patches; with all of them in order, `states`.

    Args:
        network: see `plain_transformer`.
        pictures: (B, C, S, S) normalized.
        visible: (B, K) int64, the patches it sees; the others are taken out, and cost nothing.
    """
    return _behind_positions(network, _with_places(network, pictures, visible))


def _with_places(network: VisionTransformer, pictures: Tensor, visible: Tensor) -> Tensor:
    """(B, P + K, D): prefix tokens, and some patches with their places."""
    embed = network.patch_embed
    edge, weight = embed.patch_size[0], embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    x = embed.norm(F.linear(rows_of(patchify(pictures, edge), visible), weight, embed.proj.bias))
    down, across = (length // edge for length in pictures.shape[2:])
    grid = (down, across) if network.dynamic_img_size else (down * across,)
    # Places are added, and prefix tokens put before: a picture of zeros has all that this brings.
    whole, first = network._pos_embed(x.new_zeros(1, *grid, x.shape[2])), network.num_prefix_tokens
    prefix, places = whole[:, :first].expand(len(x), -1, -1), whole[0, first:]
    return torch.cat([prefix, x + F.embedding(visible, places)], 1)


def _behind_positions(network: VisionTransformer, x: Tensor) -> Tensor:
    """What follows once patches have their places."""
    for block in (network.norm_pre, *network.blocks):
        x = block(x)
    return network.fc_norm(network.norm(x))


def waves(width: int, down: int, across: int) -> Tensor:
    """(down * across, width) fixed position embedding: sines and cosines of both coordinates, half of the width each.

    Vaswani et al. 2017 in two dimensions, as He et al. 2022 have it: first the columns, then the rows.
    """
    omega = 1e4 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
    angles = [place.flatten()[:, None].double() * omega for place in (x, y)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


class PatchDecoder(nn.Module):
    """A light transformer from the states of some patches to the pixels of all of them (He et al. 2022, section 3).

    Args:
        width: D of the encoder.
        inner: width of this decoder, a multiple of 4 and of its heads.
        layers: number of blocks.
        heads: attention heads.
        down, across: patches of a picture.
        out: numbers to tell of each patch.
    """

    positions: Tensor

    def __init__(self, width: int, inner: int, layers: int, heads: int, down: int, across: int, out: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, inner)
        self.mask = nn.Parameter(0.02 * torch.randn(inner))
        self.register_buffer("positions", waves(inner, down, across))
        self.blocks = nn.Sequential(*(Block(inner, heads, qkv_bias=True) for _ in range(layers - 1)))
        self.last = Block(inner, heads, qkv_bias=True)
        self.norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, out)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, seen: Tensor, prefix: int, visible: Tensor, hidden: Tensor) -> Tensor:
        """(B, M, out): what stands in the hidden patches.

        Args:
            seen: (B, P + K, D) states of the prefix tokens and of the visible patches.
            prefix: P.
            visible: (B, K) int64.
            hidden: (B, M) int64.
        """
        x = self.enter(seen)
        positions = self.positions.to(x.dtype)
        shown = x[:, prefix:] + F.embedding(visible, positions)
        masks = self.mask.to(x.dtype) + F.embedding(hidden, positions)
        x, last = self.blocks(torch.cat([x[:, :prefix], shown, masks], 1)), self.last
        # Attention knows no order, so the hidden patches may stand last; behind it no one asks for the others again.
        x = (x + last.attn(last.norm1(x)))[:, -hidden.shape[1] :]
        return self.leave(self.norm(x + last.mlp(last.norm2(x))))

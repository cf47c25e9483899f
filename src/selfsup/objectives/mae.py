"""MAE: most patches of a picture are hidden, and their pixels are told from the few that are left.

He, Chen, Xie, Li, Dollár, Girshick 2022, "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377): a
random 75 % of the patches are taken out, the encoder sees only the others, and a light decoder is given a mask token
in place of every hidden patch. The loss is the mean squared error of the hidden patches, each standardized by its own
mean and deviation (section 4.1). The decoder is thrown away; the encoder sees whole pictures from then on.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `image` (B, C, S, S), `visible` (B, K) and
`hidden` (B, M), numbers of patches, row by row. Exported: the encoder `image`, a plain ViT without any masking.
Differs from the paper: a decoder of two blocks (8, of which the paper's table 1a has 1 nearly as good when fine-tuned);
the encoder's positions are learned (fixed); its vector is the mean of the patches (fine-tuning there, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from selfsup.backbones import ImageBackbone
from selfsup.data.augment import Augment
from selfsup.data.facts import ImageFacts
from selfsup.data.image import PictureReader
from selfsup.data.pixels import PixelStore
from selfsup.errors import UserError
from selfsup.fields import STRICT, Count, Share
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.vit import PatchDecoder, plain_transformer, visible_states
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.patches import patchify, rows_of, standardized, unpatchify
from selfsup.ops.precision import at_least_float32
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of MAE."""

    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Share of the patches that is hidden."""
    target: Literal["standardized", "pixels"] = "standardized"
    """What is told of a hidden patch: its pixels with mean 0 and variance 1, or as they are."""
    decoder_layers: Count = 2
    """Blocks of the decoder."""
    decoder_width: Annotated[int, Field(gt=0, multiple_of=32)] = 64
    """Width of the decoder; its heads are 32 wide."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Smallest share of the picture's area that a crop shows."""
    flip: Share = 0.5
    """Probability of a mirrored view; 0 where left and right matter, as in letters."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One plain vision transformer."""
    return {"image": Need("image", transformer=True, pool="mean")}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class MAE(Objective):
    """Encoder of the visible patches, decoder of the hidden ones."""

    couples_rows = False

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder, self.backbone = encoder, plain_transformer(encoder, "mae")
        self.edge = self.backbone.patch_embed.patch_size[0]
        side = facts.size // self.edge
        self.patches = side * side
        self.kept = round(self.patches * (1 - config.mask_rate))
        if not 0 < self.kept < self.patches:
            raise UserError(
                f"--mask-rate {config.mask_rate} of {self.patches} patches leaves {self.kept} in view; "
                "type another rate, or a smaller --patch"
            )
        self.decoder = PatchDecoder(
            self.backbone.embed_dim, config.decoder_width, config.decoder_layers, config.decoder_width // 32,
            side, side, self.edge**2 * facts.channels,
        )  # fmt: skip
        self.augment = Augment(
            size=facts.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, jitter=0.0, gray=0.0, blur=0.0
        )

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """A crop of each picture, and which of its patches are left in view and which are hidden."""
        mean, sd = self.facts.mean, self.facts.sd
        image = self.augment(batch["image"], batch["height"], batch["width"], draw, "crop", mean, sd)
        order = draw.to(image.device).permutation("mask", self.patches)
        return {"image": image, "visible": order[:, : self.kept], "hidden": order[:, self.kept :]}

    def targets(self, image: Tensor, hidden: Tensor) -> Tensor:
        """(B, M, P) float32: what is to be told of the hidden patches of normalized pictures (B, C, S, S)."""
        patches = rows_of(patchify(at_least_float32(image), self.edge), hidden)
        return standardized(patches) if self.config.target == "standardized" else patches

    def reconstruct(self, views: Batch) -> Tensor:
        """(B, M, P) float32: the hidden patches as the network tells them."""
        seen = visible_states(self.backbone, views["image"], views["visible"])
        told = self.decoder(seen, self.backbone.num_prefix_tokens, views["visible"], views["hidden"])
        return at_least_float32(told)

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Mean squared error over the hidden patches; knowing nothing is to tell the mean of each."""
        views = views or self.views(batch, draw)
        wanted = self.targets(views["image"], views["hidden"])
        error = (self.reconstruct(views) - wanted).square().mean((1, 2))
        center = wanted.mean((0, 1)) if self.config.target == "pixels" else 0.0
        return {
            "loss": error.mean(),
            "count": error.new_tensor(wanted.shape[0] * wanted.shape[1]),
            "trivial": (wanted - center).square().mean(),
            "example_loss": error,
        }

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The encoder, which sees all patches when the training is over."""
        return {"image": self.encoder}

    def limits(self) -> Mapping[str, Limit]:
        """What He et al. 2022 tried in figure 5."""
        return {
            "mask_rate": Limit(
                0.4, 0.9, "neighbors give the hidden patches away, or nothing is left to tell them from"
            ),
        }

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The crop, what is left in view of it, and the hidden patches as told, their mean and contrast given."""
        views = self.views(batch, draw)
        image, hidden = views["image"].cpu().float(), views["hidden"].cpu()
        told = self.reconstruct(views).cpu()
        patches = patchify(image, self.edge)
        if self.config.target == "standardized":
            own = rows_of(patches, hidden)
            told = told * (own.var(-1, keepdim=True) + 1e-6) ** 0.5 + own.mean(-1, keepdim=True)
        place = hidden[..., None].expand_as(told)
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.mean, self.facts.sd))
        pages = {
            "crop": patches,
            "in view": patches.scatter(1, place, torch.zeros_like(told)),
            "as told, mean given" if self.config.target == "standardized" else "as told": patches.scatter(
                1, place, told
            ),
        }
        return {name: unpatchify(page, self.edge, image.shape[2]) * sd + mean for name, page in pages.items()}


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> MAE:
    """MAE around an encoder; a network from which patches cannot be left out is refused."""
    return MAE(config, facts, encoders["image"])


def recipe() -> Recipe:
    """A setting for small pictures and one machine; its rates are those of `simclr` and not tuned yet."""
    return Recipe(
        objective="mae",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=64, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="mae",
        config=Config(decoder_layers=1, decoder_width=32),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano", patch=4),
        optimizer=Optimizer(batch=16, optimizer="muon", rate=2e-3, momentum=0.95),
        budget=Budget(steps=30),
    )

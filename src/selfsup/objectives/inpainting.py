"""Inpainting: a region of a picture is taken out, and the network paints it.

Pathak, Krähenbühl, Donahue, Darrell, Efros 2016, "Context Encoders: Feature Learning by Inpainting" (arXiv 1604.07379):
an encoder sees the picture with the mean color in the hole, a decoder of convolutions tells the whole picture, and the
loss is the mean squared error inside the hole (equation 1). The hole is a block, or a region of any shape, which gives
the features nothing to get used to (section 3.3). The loss of knowing nothing is that of a smooth filling.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `image` (B, C, S, S), whole, and `hole`
(B, 1, S, S) bool. Exported: the encoder `image`, and encoder with decoder as `reconstruct`, which `selfsup fill` uses.
Differs from the paper: no adversarial loss, so fillings are blurred; the decoder tells what has to be added to a smooth
filling; regions are the high places of a smooth random landscape (shapes of objects from PASCAL).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from selfsup.fields import STRICT, Count, Share
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.filling import FillingNetwork
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.holes import GRID, blob_holes, block_holes, smooth_fill
from selfsup.ops.precision import at_least_float32
from selfsup.predictors.inpainter import Inpainter
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of inpainting."""

    region: Literal["random", "block"] = "random"
    """What is taken out: a region of any shape, or a rectangle."""
    hidden: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the picture's area that is taken out."""
    decoder_width: Count = 128
    """Channels of the decoder's first convolution."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest share of the picture's area that a crop shows."""
    flip: Share = 0.5
    """Probability of a mirrored view; 0 where left and right matter, as in letters."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One image encoder of any family."""
    return {"image": Need("image")}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class Inpainting(Objective):
    """Encoder of pictures with holes, decoder of what is missing."""

    couples_rows = False

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.config, self.facts, self.encoder = config, facts, encoder
        self.network = FillingNetwork(encoder.module, config.decoder_width, facts.size, facts.channels)
        self.augment = Augment(
            size=facts.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, jitter=0.0, gray=0.0, blur=0.0
        )

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """A crop of each picture, and where its hole is."""
        mean, sd = self.facts.mean, self.facts.sd
        image = self.augment(batch["image"], batch["height"], batch["width"], draw, "crop", mean, sd)
        draw, size, share = draw.to(image.device), self.facts.size, self.config.hidden
        if self.config.region == "block":
            return {"image": image, "hole": block_holes(draw.uniform("hole", 3), size, share)}
        return {"image": image, "hole": blob_holes(draw.uniform("hole", GRID, GRID), size, share)}

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Mean squared error inside the holes."""
        views = views or self.views(batch, draw)
        image, hole = at_least_float32(views["image"]), views["hole"]
        missing = hole.flatten(1).sum(1) * image.shape[1]

        def error(filled: Tensor) -> Tensor:
            return (at_least_float32(filled) - image).square().flatten(1).sum(1) / missing  # outside they are equal

        smooth = smooth_fill(image, hole)
        loss = error(self.network.paint(image, hole, smooth))
        return {
            "loss": loss.mean(),
            "count": loss.new_tensor(len(loss)),
            "trivial": error(smooth).mean(),
            "example_loss": loss,
        }

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The encoder, which sees whole pictures when the training is over."""
        return {"image": self.encoder}

    def predictors(self) -> Sequence[Inpainter]:
        """Encoder and decoder, which fill pictures."""
        return [Inpainter(self.network, self.encoder, self.config.decoder_width)]

    def limits(self) -> Mapping[str, Limit]:
        """Around the quarter that Pathak et al. 2016 take out."""
        return {"hidden": Limit(0.05, 0.6, "smoothness fills small holes, and of large ones nothing can be known")}

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The crop, the crop with its hole, filled smoothly, and as the network fills it."""
        views = self.views(batch, draw)
        image, hole = views["image"], views["hole"]
        filled = at_least_float32(self.network(image, hole))
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.mean, self.facts.sd))
        pages = {"crop": image, "smooth filling": smooth_fill(image, hole), "as painted": filled}
        shown = {name: page.cpu() * sd + mean for name, page in pages.items()}
        holed = torch.where(hole.cpu(), 1.0, shown.pop("crop"))
        return {"crop": image.cpu() * sd + mean, "with a hole": holed, **shown}


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> Inpainting:
    """Inpainting around an encoder."""
    return Inpainting(config, facts, encoders["image"])


def recipe() -> Recipe:
    """A setting for small pictures and one machine; its rates are those of `simclr` and not tuned yet."""
    return Recipe(
        objective="inpainting",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=128, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="inpainting",
        config=Config(decoder_width=32),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano"),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

"""SimCLR: two crops of one picture should be closer to each other than to crops of any other picture.

Chen, Kornblith, Norouzi, Hinton 2020, "A Simple Framework for Contrastive Learning of Visual Representations"
(arXiv 2002.05709): every picture is cropped, flipped and recolored twice, and blurred where asked; encoder f and
projection g map both views to unit vectors; NT-Xent (equation 1) asks each view to pick the other one among all views
of all pictures in the batch, over all processes. The projection is thrown away; f is what survives.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `first`, `second` (B, C, S, S).
Exported: the encoder `image`.
Differs from the paper: hue is a rotation about the gray axis; Muon in place of LARS (docs/results.md); the defaults
are for pictures of 32 to 96 pixels and minutes of training: crops of at least a fifth of the area (paper: 0.08),
temperature 0.2 (0.1 to 0.5), no blur (as the paper on CIFAR-10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
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
from selfsup.nn.chunks import in_chunks
from selfsup.nn.heads import projection
from selfsup.nn.norm import has_batch_statistics
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.contrastive import nt_xent
from selfsup.ops.gather import gather, processes
from selfsup.ops.precision import at_least_float32
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of SimCLR."""

    temperature: Annotated[float, Field(gt=0)] = 0.2
    """Tau of NT-Xent; lower looks harder at the nearest other pictures."""
    hidden: Count = 512
    """Width of the projection's hidden layer."""
    output: Count = 128
    """Width of the vectors that are compared."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Smallest share of the picture's area that a crop shows."""
    flip: Share = 0.5
    """Probability of a mirrored view; 0 where left and right matter, as in letters."""
    color: Annotated[float, Field(ge=0)] = 0.5
    """Strength of the color jitter (the paper's s)."""
    gray: Share = 0.2
    """Probability of a gray view."""
    blur: Share = 0.0
    """Probability of a blurred view; the paper has 0.5 at 224 pixels and none at 32."""
    chunk: Count | None = None
    """Pictures that pass the network at once, for batches beyond memory; not with batch norm in the encoder."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One image encoder of any family."""
    return {"image": Need("image")}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class SimCLR(Objective):
    """Encoder, projection and NT-Xent."""

    couples_rows = True

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        self.backbone = encoder.module
        self.projection = projection(encoder.width, config.hidden, config.output)
        self.augment = Augment(
            size=facts.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, strength=config.color,
            gray=config.gray, blur=config.blur,
        )  # fmt: skip

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """Two views of every picture: `first`, `second`, each (B, C, S, S) normalized."""
        squares, height, width = batch["image"], batch["height"], batch["width"]
        mean, sd = self.facts.mean, self.facts.sd
        return {name: self.augment(squares, height, width, draw, name, mean, sd) for name in ("first", "second")}

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """NT-Xent over the rows of all processes."""

        def features(start: int, stop: int) -> Tensor:
            part = {name: value[start:stop] for name, value in batch.items()}
            given = views and {name: value[start:stop] for name, value in views.items()}
            shown = given or self.views(part, draw[start:stop])
            return self.backbone(torch.cat([shown["first"], shown["second"]])).view(2, stop - start, -1).transpose(0, 1)

        h = in_chunks(features, len(draw), self.config.chunk)  # (B, 2, D)
        z = at_least_float32(self.projection(h.transpose(0, 1).flatten(0, 1)))
        z = F.normalize(z, dim=-1).view(2, len(draw), -1)
        keys = gather(z.transpose(0, 1).contiguous()).transpose(0, 1)  # (2, W B, D)
        rank, world = processes()
        loss, correct = nt_xent(z[0], z[1], keys, rank * len(draw), self.config.temperature)
        count = 2 * len(draw)
        candidates = max(2 * world * len(draw) - 1, 1)
        return {
            "loss": loss.mean(),
            "count": loss.new_tensor(count),
            "trivial": loss.new_tensor(math.log(candidates)),
            "accuracy": correct.float().mean(),
            "example_loss": loss.mean(0),
            "example_correct": correct.all(0),
        }

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The encoder f, without the projection."""
        return {"image": self.encoder}

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One view of all but the one that asks."""
        return {"accuracy": 1 / (2 * batch - 1)}

    def limits(self) -> Mapping[str, Limit]:
        """Wide ranges around what Chen et al. 2020 tried, for batch, temperature and crops; rules of thumb."""
        return {
            "batch": Limit(64, math.inf, "every picture is told from the others of its batch, and these are few"),
            "temperature": Limit(
                0.02, 1.0, "tau softens all differences away when large, and sees only noise when small"
            ),
            "crop_min": Limit(0.05, 0.7, "the two views show nearly the same, or nearly nothing in common"),
        }

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The picture and its two views."""
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.mean, self.facts.sd))
        views = {name: view.cpu() * sd + mean for name, view in self.views(batch, draw).items()}
        return {"picture": batch["image"].permute(0, 3, 1, 2).cpu() / 255, **views}


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> SimCLR:
    """SimCLR around an encoder; chunks are refused where rows of a batch share statistics."""
    if config.chunk is not None and has_batch_statistics(encoders["image"].module):
        raise UserError(
            f"--chunk {config.chunk}: batch norm in the encoder ties the rows of a batch together; "
            "drop --chunk, or choose a network without batch statistics, such as --network vit_small_patch16_224"
        )
    return SimCLR(config, facts, encoders["image"])


def recipe() -> Recipe:
    """The measured setting for small pictures and one machine (docs/results.md)."""
    return Recipe(
        objective="simclr",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=256, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="simclr",
        config=Config(hidden=32, output=16),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano"),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

"""Rotation: a picture was turned by 0, 90, 180 or 270 degrees, and the network tells by how much.

Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations" (arXiv
1803.07728, "RotNet"): whoever knows what is in a picture knows which side is up. All four turns of a picture are in the
batch together (their section 3.2), and a linear layer on the encoder's vector answers. Turns by a right angle only move
pixels, so nothing in their interpolation gives them away.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `image` (B, 4, C, S, S), turned by 0, 1, 2 and 3
quarters counterclockwise. Exported: the encoder `image`.
Differs from the paper: crops of at least half of the picture and a little color jitter.
Does not suit pictures without an upper side: cells, aerial photographs, textures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from selfsup.backbones import ImageBackbone
from selfsup.data.augment import Augment
from selfsup.data.facts import ImageFacts
from selfsup.data.image import PictureReader
from selfsup.data.pixels import PixelStore
from selfsup.fields import STRICT, Share
from selfsup.image_encoder import ImageEncoder
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.precision import at_least_float32
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe

TURNS = 4


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of rotation."""

    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest share of the picture's area that a crop shows."""
    flip: Share = 0.5
    """Probability of a mirrored view; 0 where left and right matter, as in letters."""
    color: Annotated[float, Field(ge=0)] = 0.25
    """Strength of the color jitter."""
    gray: Share = 0.0
    """Probability of a gray picture; 1 where a lens draws colored fringes, whose direction tells the turn by itself."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One image encoder of any family."""
    return {"image": Need("image")}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class Rotation(Objective):
    """Encoder and a linear classifier of turns."""

    couples_rows = False
    questions = tuple(f"{90 * turn}\N{DEGREE SIGN}" for turn in range(TURNS))

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.facts = facts
        self.encoder, self.backbone = encoder, encoder.module
        self.head = nn.Linear(encoder.width, TURNS)
        self.augment = Augment(
            size=facts.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, strength=config.color,
            gray=config.gray, blur=0.0,
        )  # fmt: skip

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """A crop of each picture in all four turns."""
        mean, sd = self.facts.mean, self.facts.sd
        crop = self.augment(batch["image"], batch["height"], batch["width"], draw, "crop", mean, sd)
        return {"image": torch.stack([crop.rot90(turn, (2, 3)) for turn in range(TURNS)], 1)}

    def answers(self, views: Batch) -> Tensor:
        """(B, 4, 4) float32: logits of the turns, for each turn of each picture."""
        image = views["image"]
        return at_least_float32(self.head(self.backbone(image.flatten(0, 1)))).view(len(image), TURNS, TURNS)

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Cross-entropy of the turns."""
        logits = self.answers(views or self.views(batch, draw))
        turns = torch.arange(TURNS, device=logits.device).expand(len(logits), -1)
        loss = F.cross_entropy(logits.transpose(1, 2), turns, reduction="none")  # (B, 4)
        told = logits.argmax(2)
        correct = told == turns
        return {
            "loss": loss.mean(),
            "count": loss.new_tensor(loss.numel()),
            "trivial": loss.new_tensor(math.log(TURNS)),
            "accuracy": correct.float().mean(),
            "example_loss": loss.mean(1),
            "example_correct": correct.all(1),
            "example_answer": told,
        }

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The encoder, without the classifier."""
        return {"image": self.encoder}

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One turn of four."""
        return {"accuracy": 1 / TURNS}

    def limits(self) -> Mapping[str, Limit]:
        """A rule of thumb."""
        return {"crop_min": Limit(0.2, 1.0, "a small piece of a picture does not show which side is up")}

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The picture, and its turns as they are posed."""
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.mean, self.facts.sd))
        turns = (self.views(batch, draw)["image"].cpu() * sd + mean).unbind(1)
        pages = {f"{90 * turn} degrees": page for turn, page in enumerate(turns)}
        return {"picture": batch["image"].permute(0, 3, 1, 2).cpu() / 255, **pages}


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> Rotation:
    """Rotation around an encoder."""
    return Rotation(config, facts, encoders["image"])


def recipe() -> Recipe:
    """A setting for small pictures and one machine; its rates are those of `simclr` and not tuned yet."""
    return Recipe(
        objective="rotation",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=128, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="rotation",
        config=Config(),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano"),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

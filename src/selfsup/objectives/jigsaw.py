"""Jigsaw: a picture was cut into tiles and these were shuffled, and the network tells in which order they stand.

Noroozi, Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles" (arXiv 1603.09246):
nine tiles pass the same network one by one, and a classifier on all their vectors names the permutation, out of a set
whose members are far from each other (algorithm 1). What would give the answer away without knowing any object is
taken from the tiles, as in their section 4.2: each comes from a random place of its cell, so that edges do not go on;
each is standardized by itself, so that brightness does not go on; some puzzles are gray.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `tiles` (B, T, C, E, E) as posed, `answer` (B,)
int64, which permutation of the set it is. Exported: the encoder `image`.
Differs from the paper: 100 permutations (1,000), the encoder is a whole network (an AlexNet up to its fifth layer).
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
from selfsup.nn.heads import PuzzleHead
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.precision import at_least_float32
from selfsup.ops.puzzles import cut_tiles, distant_permutations, mosaic, shuffled
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of jigsaw."""

    side: Annotated[int, Field(ge=2, le=3)] = 3
    """Tiles along an edge of the picture."""
    permutations: Annotated[int, Field(ge=2)] = 100
    """Number of orders that are told apart; 2 x 2 tiles have 24."""
    gap: Annotated[float, Field(ge=0, lt=0.5)] = 0.15
    """Share of a cell's edge by which its tile is smaller: tiles come from random places of their cells."""
    gray: Share = 0.3
    """Probability of a puzzle without colors."""
    hidden: Count = 512
    """Width of the classifier's hidden layer."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest share of the picture's area that a puzzle shows."""
    flip: Share = 0.5
    """Probability of a mirrored puzzle; 0 where left and right matter, as in letters."""
    color: Annotated[float, Field(ge=0)] = 0.25
    """Strength of the color jitter."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One image encoder that sees pictures of several sizes: tiles in training, whole ones later."""
    return {"image": Need("image", sizes=True)}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class Jigsaw(Objective):
    """Encoder of tiles and a classifier of permutations."""

    couples_rows = False
    orders: Tensor

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder, self.backbone = encoder, encoder.module
        self.cell = facts.size // config.side
        self.edge = self.tile_edge()
        tiles = config.side**2
        orders = torch.tensor(distant_permutations(tiles, config.permutations))
        self.register_buffer("orders", orders, persistent=False)  # (P, T)
        self.head = PuzzleHead(encoder.width, tiles, config.hidden, config.permutations)
        self.augment = Augment(
            size=facts.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, strength=config.color,
            gray=config.gray, blur=0.0,
        )  # fmt: skip

    def tile_edge(self) -> int:
        """Edge of a tile in pixels: that of its cell less the gap, in whole patches for a transformer.

        Raises:
            UserError: no tile of at least one patch or four pixels is left.
        """
        unit = self.encoder.patch or 1
        edge = int(self.cell * (1 - self.config.gap)) // unit * unit
        if edge < max(unit, 4):
            side = self.config.side
            raise UserError(
                f"pictures of {self.facts.size} px in {side} x {side} tiles leave {edge} px for each; "
                "type a larger --pixels, a smaller --patch or a smaller --gap"
            )
        return edge

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """The tiles of each picture in the order of a random permutation of the set, each standardized by itself."""
        zero, one = (0.0,) * self.facts.channels, (1.0,) * self.facts.channels
        crop = self.augment(batch["image"], batch["height"], batch["width"], draw, "crop", zero, one)
        draw = draw.to(crop.device)
        places = draw.integers("places", self.cell - self.edge + 1, len(self.orders[0]), 2)
        answer = draw.integers("answer", len(self.orders))
        tiles = shuffled(cut_tiles(crop, self.config.side, self.edge, places), self.orders[answer])
        mean = tiles.mean((2, 3, 4), keepdim=True)
        variance = (tiles - mean).square().mean((2, 3, 4), keepdim=True)
        return {"tiles": (tiles - mean) * (variance + 1e-4).rsqrt(), "answer": answer}

    def answers(self, views: Batch) -> Tensor:
        """(B, P) float32: logits of the permutations."""
        tiles = views["tiles"]
        vectors = self.backbone(tiles.flatten(0, 1)).view(*tiles.shape[:2], -1)  # (B, T, D)
        return at_least_float32(self.head(vectors))

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Cross-entropy of the permutation."""
        views = views or self.views(batch, draw)
        logits = self.answers(views)
        loss = F.cross_entropy(logits, views["answer"], reduction="none")
        correct = logits.argmax(1) == views["answer"]
        return {
            "loss": loss.mean(),
            "count": loss.new_tensor(len(loss)),
            "trivial": loss.new_tensor(math.log(logits.shape[1])),
            "accuracy": correct.float().mean(),
            "example_loss": loss,
            "example_correct": correct,
        }

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The encoder, which sees whole pictures when the training is over."""
        return {"image": self.encoder}

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One permutation of the set."""
        return {"accuracy": 1 / len(self.orders)}

    def limits(self) -> Mapping[str, Limit]:
        """Rules of thumb, from what Noroozi and Favaro 2016 tried."""
        return {
            "gap": Limit(0.05, 0.4, "edges continue from tile to tile, or little is left of the tiles"),
            "permutations": Limit(10, 10_000, "few orders are told apart by a few tiles"),
        }

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The picture, the puzzle as posed, and as answered: its tiles put back by the order that is told."""
        views = self.views(batch, draw)
        told = self.orders[self.answers(views).argmax(1)]  # (B, T): place i holds tile told[i]
        tiles = (0.5 + views["tiles"] / 5).clamp(0, 1)  # two and a half deviations either way
        back = shuffled(tiles, told.argsort(1))
        gap = self.cell - self.edge
        return {
            "picture": batch["image"].permute(0, 3, 1, 2).cpu() / 255,
            "as posed": mosaic(tiles, self.config.side, gap).cpu(),
            "as answered": mosaic(back, self.config.side, gap).cpu(),
        }


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> Jigsaw:
    """Jigsaw around an encoder; tiles that are too small are refused."""
    return Jigsaw(config, facts, encoders["image"])


def recipe() -> Recipe:
    """A setting for small pictures and one machine; its rates are those of `simclr` and not tuned yet."""
    return Recipe(
        objective="jigsaw",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=128, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="jigsaw",
        config=Config(side=2, permutations=24, hidden=64, gap=0.1),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano"),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

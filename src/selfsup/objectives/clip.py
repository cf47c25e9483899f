"""CLIP: a picture should pick its caption among those of all others, and a caption its picture.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020, figure
3): two towers and a matrix behind each map pictures and captions to unit vectors of one space; the symmetric InfoNCE
loss over all rows of the batch, over all processes, with a learned temperature. `--loss sigmoid` is SigLIP (Zhai et al.
2023, arXiv 2303.15343, algorithm 1), which asks of every pair whether it belongs together. Zero-shot classification,
search and captions by pictures go by cosines in that space.

Batch keys: see `CaptionReader`. Views: `image` (B, C, S, S), `input` (B, L) with `length` (B,), the caption between the
tokenizer's marks; `visible` (B, K) where patches are dropped.
Exported: the encoders `image` and `text`, without the matrices; both with them and the temperature as `pair`, which
transformers loads.
Differs from the papers: rows with the same picture or the same caption belong together, the target is spread evenly
over them (`--duplicates negatives` is the papers' loss); SigLIP's bias is counted from minus the log of the number of
candidates, where it starts; a text tower with a pooler is read by that, others by the mean of their states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from selfsup.backbones import TowerBackbone
from selfsup.data.augment import Augment
from selfsup.data.caption_reader import CaptionReader
from selfsup.data.captions import CaptionStore
from selfsup.data.facts import CaptionFacts
from selfsup.data.tokenizer import Template
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.fields import STRICT, Count, Share
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.chunks import in_chunks
from selfsup.nn.norm import has_batch_statistics
from selfsup.nn.ragged import marked, text_vectors
from selfsup.nn.vit import plain_transformer, visible_vectors
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.gather import gather, processes
from selfsup.ops.image_text import partners, shared_info_nce, sigmoid_pairs, sigmoid_trivial
from selfsup.predictors.pair import Pair
from selfsup.recipes import Budget, CaptionData, Optimizer, Recipe
from selfsup.text_encoder import TextEncoder

Side = Literal["image", "text"]
HOT = math.log(100)  # of one over the temperature; the paper clamps it there (section 2.5)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of CLIP."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """InfoNCE both ways, or SigLIP's question of every pair."""
    context: Count = 32
    """Tokens that the text tower reads of a caption, its marks among them."""
    output: Count = 128
    """Width of the space that both towers share."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Where the learned temperature starts; 0.07 when not given, 0.1 for the sigmoid loss."""
    duplicates: Literal["positives", "negatives"] = "positives"
    """What rows of equal pictures or equal captions are to each other; the papers' loss has negatives."""
    lock: tuple[Side, ...] = ()
    """Towers that stay as they started: `--lock image` is LiT (Zhai et al. 2022)."""
    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Smallest share of the picture's area that a crop shows."""
    flip: Share = 0.0
    """Probability of a mirrored picture; none, where captions tell left from right."""
    color: Annotated[float, Field(ge=0)] = 0.0
    """Strength of color jitter; none, where captions name colors."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the patches that the picture tower does not see in training (FLIP); vision transformers only."""
    chunk: Count | None = None
    """Pairs that pass the networks at once, for batches beyond memory; not with batch norm in the picture tower."""


def backbones(config: Config, facts: CaptionFacts) -> dict[str, Need]:
    """An image network of any family, and a transformer of any kind."""
    transformer = config.patch_dropout > 0
    return {"image": Need("image", transformer=transformer), "text": Need("caption", context=config.context)}


def reader(config: Config, store: CaptionStore) -> CaptionReader:
    """A row is a picture with one of its captions."""
    marks = Template.for_encoder(store.tokens.tokenizer)
    room = config.context - len(marks.start) - len(marks.stop)
    if room < 1:
        raise UserError(
            f"--context {config.context} has no room for a caption between the tokenizer's marks; give more"
        )
    return CaptionReader(store, room)


class CLIP(Objective):
    """Two towers, a matrix behind each, and a temperature."""

    couples_rows = True

    def __init__(self, config: Config, facts: CaptionFacts, pair: Pair) -> None:
        super().__init__()
        self.config, self.facts, self.pair = config, facts, pair
        self.image_tower, self.text_tower = pair.image.module, pair.text.model
        self.image_projection, self.text_projection = pair.projections
        self.log_scale, self.bias = pair.log_scale, pair.bias
        self.template = Template.of(pair.text.tokenizer)
        self.augment = Augment(
            size=facts.image.size, crop_scale=(config.crop_min, 1.0), flip=config.flip, strength=config.color,
            jitter=0.8 if config.color else 0.0, gray=0.0, blur=0.0,
        )  # fmt: skip
        self.visible: int | None = None  # patches
        if config.patch_dropout:
            patches = plain_transformer(pair.image, "--patch-dropout").patch_embed.num_patches
            self.visible = max(round(patches * (1 - config.patch_dropout)), 1)
        for side in config.lock:
            self.towers[side].requires_grad_(False)

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Both networks, by what they see."""
        return {"image": self.image_tower, "text": self.text_tower}

    def train(self, mode: bool = True) -> CLIP:
        """As any module; a locked tower stays in eval mode."""
        super().train(mode)
        for side in self.config.lock:
            self.towers[side].eval()
        return self

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """A crop of every picture, and the caption between the tokenizer's marks."""
        image, mean, sd = self.facts.image, self.facts.image.mean, self.facts.image.sd
        shown = self.augment(batch["image"], batch["height"], batch["width"], draw, "image", mean, sd)
        ids, length, _ = marked(self.template, (batch["text"], batch["text_length"]))
        views = {"image": shown, "input": ids, "length": length}
        if self.visible is not None:
            edge = self.pair.image.patch
            assert edge is not None
            views["visible"] = draw.permutation("patches", (image.size // edge) ** 2)[:, : self.visible]
        return views

    def vectors(self, shown: Batch) -> Tensor:
        """(B, 2, D) of length 1: pictures and captions in their common space."""
        if "visible" in shown and self.training:
            seen = visible_vectors(
                plain_transformer(self.pair.image, "--patch-dropout"), shown["image"], shown["visible"]
            )
        else:
            seen = self.image_tower(shown["image"])
        read = text_vectors(self.text_tower, shown["input"], shown["length"], self.pair.text.reading.pool, None)
        return torch.stack([self.image_projection(seen), self.text_projection(read)], 1)

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """The loss in nats, over the rows of all processes."""

        def vectors(start: int, stop: int) -> Tensor:
            part = {name: value[start:stop] for name, value in batch.items()}
            given = views and {name: value[start:stop] for name, value in views.items()}
            return self.vectors(given or self.views(part, draw[start:stop]))

        z = in_chunks(vectors, len(draw), self.config.chunk)
        x, y = z.unbind(1)  # (B, D) each
        rank, world = processes()
        count = len(draw) * world
        ids, others, every = batch["pair_id"], gather(batch["pair_id"]), gather(z.contiguous())
        copies = (partners(others) > 1).float().mean()
        if self.config.duplicates == "negatives":  # each row belongs to itself alone
            others = torch.arange(count, device=x.device)[:, None].expand(-1, 2)
            ids = others[rank * len(draw) :][: len(draw)]
        scale = self.log_scale.exp()
        if self.config.loss == "softmax":
            first, seen = shared_info_nce(x, every[:, 1], ids, others, scale)
            second, told = shared_info_nce(y, every[:, 0], ids, others, scale)
            loss, correct = (first + second) / 2, seen & told
            accuracy, trivial = (seen.float().mean() + told.float().mean()) / 2, loss.new_tensor(math.log(count))
        else:
            loss, correct = sigmoid_pairs(x, every[:, 1], ids, others, scale, self.bias - math.log(count))
            accuracy = correct.float().mean()
            trivial = sigmoid_trivial(count, partners(others).double().mean()).to(loss)
        return {
            "loss": loss.mean(),
            "count": loss.new_tensor(len(draw)),
            "trivial": trivial,
            "accuracy": accuracy,  # R@1 of the batch
            "duplicates": copies,  # share of the rows that have a copy in the batch
            "logit_scale": scale.detach(),
            "example_loss": loss,
            "example_correct": correct,
        }

    def after_step(self, progress: float) -> None:
        """The scale stays below 100, as in the paper; SigLIP's is free."""
        if self.config.loss == "softmax":
            with torch.no_grad():
                self.log_scale.clamp_(max=HOT)

    def encoders(self) -> Mapping[str, Encoder]:
        """Both towers, without the matrices behind them."""
        return {"image": self.pair.image, "text": self.pair.text}

    def predictors(self) -> tuple[Pair]:
        """Both towers in their common space."""
        return (self.pair,)

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One caption or picture of the batch; whether a pair belongs together (SigLIP) is nearly always no."""
        return {"accuracy": 1 / batch} if self.config.loss == "softmax" else {}

    def limits(self) -> Mapping[str, Limit]:
        """Wide ranges for batch and temperature; rules of thumb."""
        return {
            "batch": Limit(32, math.inf, "every picture is told from the others of its batch, and these are few"),
            "temperature": Limit(0.01, 1.0, "tau softens all differences away when large, and sees noise when small"),
        }

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The picture as it is cropped."""
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.image.mean, self.facts.image.sd))
        shown = self.views(batch, draw)["image"].cpu() * sd + mean
        return {"picture": batch["image"].permute(0, 3, 1, 2).cpu() / 255, "crop": shown}


def build(config: Config, facts: CaptionFacts, encoders: Mapping[str, Encoder]) -> CLIP:
    """CLIP around two towers; chunks are refused where rows of a batch share statistics."""
    image, text = encoders["image"], encoders["text"]
    assert isinstance(image, ImageEncoder) and isinstance(text, TextEncoder)
    if config.chunk is not None and "image" not in config.lock and has_batch_statistics(image.module):
        raise UserError(
            f"--chunk {config.chunk}: batch norm in the picture tower ties the rows of a batch together; "
            "drop --chunk, or choose a network without batch statistics, such as --network vit_small_patch16_224"
        )
    temperature = config.temperature or {"softmax": 0.07, "sigmoid": 0.1}[config.loss]
    return CLIP(config, facts, Pair.around(image, text, config.context, config.output, temperature, config.loss))


def recipe() -> Recipe:
    """The setting for small pictures and minutes on one machine (docs/results.md)."""
    return Recipe(
        objective="clip",
        config=Config(),
        data=CaptionData(source="sample:glyphs"),
        backbone=TowerBackbone(),
        optimizer=Optimizer(
            batch=256, optimizer="muon", rate=2e-3, matrix_rate=0.02, momentum=0.95, decay=0.1, betas=(0.9, 0.98)
        ),
        budget=Budget(minutes=3),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="clip",
        config=Config(output=16, context=64),
        data=CaptionData(source="sample:glyphs", pixels=16, tokenizer="byte"),
        backbone=TowerBackbone(size="nano", layers=2, heads=2, width=32),
        optimizer=Optimizer(batch=32, rate=2e-3),
        budget=Budget(steps=30),
    )

"""A student and its teacher in fifty lines, to be broken on purpose: DINO without its many crops.

Caron et al. 2021 (arXiv 2104.14294). Batch keys: `image`, `height`, `width`. Exported: the encoder `image`.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import nn

from selfsup.backbones import ImageBackbone
from selfsup.data.augment import Augment
from selfsup.data.image import PictureReader
from selfsup.fields import STRICT, Count, Share
from selfsup.objective import Limit, Need, Objective
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings."""

    prototypes: Count = 16
    """Answers among which the teacher chooses."""
    teacher_momentum: Share = 0.99
    """How slowly the teacher follows."""
    teacher_temperature: float = 0.05
    """How sure the teacher is."""


def backbones(config: Config, facts: object) -> dict[str, Need]:
    """One image encoder."""
    return {"image": Need("image")}


def reader(config: Config, store: object) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class Teacher(Objective):
    """Two networks of one shape."""

    couples_rows = True

    def __init__(self, config, facts, encoder) -> None:
        super().__init__()
        self.config, self.facts, self.encoder = config, facts, encoder
        self.student = nn.Sequential(encoder.module, nn.Linear(encoder.width, 32), nn.BatchNorm1d(32))
        self.prototypes = nn.Parameter(torch.randn(config.prototypes, 32))
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(config.prototypes))
        self.augment = Augment(size=facts.size, flip=0.0)

    def views(self, batch, draw):
        """Two views."""
        given = batch["image"], batch["height"], batch["width"], draw
        return {name: self.augment(*given, name, self.facts.mean, self.facts.sd) for name in ("first", "second")}

    def answer(self, network, pictures):
        """(B, K) cosines with the prototypes."""
        return (F.normalize(network(pictures), dim=1) @ F.normalize(self.prototypes, dim=1).T).float()

    def forward(self, batch, draw, views=None):
        """Cross-entropy of the student's answer on one view with the teacher's on the other."""
        shown = views or self.views(batch, draw)
        with torch.no_grad():
            said = self.answer(self.teacher, shown["first"])
            target = ((said - self.center) / self.config.teacher_temperature).softmax(1)
            if self.training:
                self.center.lerp_(said.mean(0), 0.1)
        rows = -(target * (self.answer(self.student, shown["second"]) / 0.1).log_softmax(1)).sum(1)
        entropy = -(target * target.clamp(min=1e-12).log()).sum(1).mean() / math.log(self.config.prototypes)
        trivial = rows.new_tensor(math.log(self.config.prototypes))
        return {
            "loss": rows.mean(), "count": rows.new_tensor(len(rows)), "trivial": trivial,
            "example_loss": rows.detach(), "teacher_entropy": entropy,
        }  # fmt: skip

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """The teacher follows."""
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.config.teacher_momentum)

    def encoders(self):
        """The student's."""
        return {"image": self.encoder}

    def limits(self):
        """What is known of teachers."""
        why = "the teacher is no steadier than the student, and both may agree on anything"
        return {"teacher_momentum": Limit(0.9, 0.9999, why)}


def build(config, facts, encoders) -> Teacher:
    """Around an encoder."""
    return Teacher(config, facts, encoders["image"])


def recipe() -> Recipe:
    """For tests."""
    return Recipe(
        objective="teacher", config=Config(), data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano"), optimizer=Optimizer(batch=64, rate=3e-3), budget=Budget(steps=100),
    )  # fmt: skip


tiny = recipe

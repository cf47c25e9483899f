"""DINO: a student tells from small or masked views of a picture what its own moving average says of the whole.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers" (arXiv 2104.14294): the student answers
for two large and several small crops, the teacher, whose weights are the average of the student's, for the large ones,
and the student learns to give the teacher's answer to another crop (equation 3). Zhou et al. 2022, "iBOT" (arXiv
2111.07832): in half of the student's large crops patches are masked, and it tells the teacher's answer to each of
these, too (equation 2). Oquab et al. 2023, "DINOv2" (arXiv 2304.07193): the teacher's answers are made by three rounds
of Sinkhorn's algorithm, so that all prototypes are used, in place of a center, and a term ("KoLeo") keeps the vectors
of different pictures apart.

Batch keys: `image` (B, R, R, C) uint8, `height`, `width` (B,). Views: `large` (B, 2, C, S, S), `small`
(B, L, C, s, s), `masked` (B, 2, N) bool. Exported: the teacher's encoder `image`.
Differs from the papers: momentum and temperature go by shares of the run (`ops/distillation.py`), so that short runs
have a teacher that moves; masked patches are single ones at random places (iBOT: blocks); one head for classes and
patches (DINOv2: two); and the defaults are for small data and one machine: 256 prototypes, two small crops. For
millions of pictures: `--prototypes 65536 --bottleneck 256 --hidden 2048 --small 8 --memory 0.002 --batch 1024`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
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
from selfsup.nn.attention import class_attention
from selfsup.nn.heads import PrototypeHead
from selfsup.nn.teacher import follow
from selfsup.nn.vit import plain_transformer, states
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.distillation import cross_entropy, entropy_share, nearness, sinkhorn, teacher_momentum
from selfsup.ops.gather import gather, processes, sum_over_processes
from selfsup.ops.patches import patchify, unpatchify
from selfsup.recipes import Budget, ImageData, Optimizer, Recipe

LARGE = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of DINO."""

    small: Annotated[int, Field(ge=0)] = 2
    """Small crops of each picture."""
    small_size: Count | None = None
    """Edge of the small crops in pixels; about half of the large ones when not given."""
    large_min: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Smallest share of the picture's area that a large crop shows, and largest that a small one shows."""
    small_min: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Smallest share of the picture's area that a small crop shows."""
    prototypes: Count = 256
    """Answers among which the teacher chooses."""
    hidden: Count = 512
    """Width of the head's hidden layers."""
    bottleneck: Count = 64
    """Width of the vectors that are compared with the prototypes."""
    student_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Of the student's answers."""
    teacher_temperature: Annotated[float, Field(gt=0)] = 0.04
    """Of the teacher's answers; it begins at two thirds of this and arrives after three tenths of the run."""
    memory: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the run that the teacher's average reaches back at the beginning; it grows to the whole."""
    masked_crops: Share = 0.5
    """Share of the large crops in which patches are masked."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of such a crop's patches that is masked."""
    patch_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of masked patches beside that of crops."""
    spread: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the term that keeps the vectors of different pictures apart."""
    flip: Share = 0.5
    """Probability of a mirrored crop; 0 where left and right matter, as in letters."""
    color: Annotated[float, Field(ge=0)] = 0.5
    """Strength of the color jitter."""
    gray: Share = 0.2
    """Probability of a gray crop."""


def backbones(config: Config, facts: ImageFacts) -> dict[str, Need]:
    """One plain vision transformer that sees crops of two sizes."""
    return {"image": Need("image", transformer=True, sizes=config.small > 0)}


def reader(config: Config, store: PixelStore) -> PictureReader:
    """A row is a picture."""
    return PictureReader(store)


class DINO(Objective):
    """Student and teacher, each an encoder with a head."""

    couples_rows = True
    clock: Tensor

    def __init__(self, config: Config, facts: ImageFacts, encoder: ImageEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.student = plain_transformer(encoder, "dino")
        edge = self.student.patch_embed.patch_size[0]
        self.patches = (facts.size // edge) ** 2
        small_size = config.small_size or max(round(facts.size / 2 / edge), 1) * edge
        if small_size % edge or small_size > facts.size:
            raise UserError(
                f"--small-size {small_size}: allowed are multiples of {edge}, the patch, up to {facts.size}"
            )
        self.head = PrototypeHead(self.student.embed_dim, config.hidden, config.bottleneck, config.prototypes)
        self.token = torch.nn.Parameter(0.02 * torch.randn(self.student.embed_dim))
        self.teacher = deepcopy(self.student).requires_grad_(False)
        self.teacher_head = deepcopy(self.head).requires_grad_(False)
        self.encoder = ImageEncoder(self.teacher, encoder.about)
        self.register_buffer("clock", torch.zeros(2, dtype=torch.float64))  # progress, and what a step adds to it
        self.large = Augment(
            size=facts.size, crop_scale=(config.large_min, 1.0), flip=config.flip, strength=config.color,
            gray=config.gray, blur=0.0,
        )  # fmt: skip
        share = (min(config.small_min, config.large_min), config.large_min)
        self.small = replace(self.large, size=small_size, crop_scale=share)

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """Crops of both sizes, and which patches of the large ones the student does not see."""
        given = batch["image"], batch["height"], batch["width"], draw
        config, norm = self.config, (self.facts.mean, self.facts.sd)
        draw = draw.to(batch["image"].device)
        chosen = draw.bernoulli("masked crops", config.masked_crops, LARGE, 1)
        found = {
            "large": torch.stack([self.large(*given, f"large {i}", *norm) for i in range(LARGE)], 1),
            "masked": draw.bernoulli("masked patches", config.mask_rate, LARGE, self.patches) & chosen,
        }
        if config.small:
            found["small"] = torch.stack([self.small(*given, f"small {i}", *norm) for i in range(config.small)], 1)
        return found

    @torch.no_grad()
    def told(self, views: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's answers, of each large crop (2B, K) and of each patch that the student does not see (M, K)."""
        seen = states(self.teacher, views["large"].flatten(0, 1))  # (2B, P + N, D)
        hidden = seen[:, -self.patches :][views["masked"].flatten(0, 1)]
        heat = self.heat()
        return sinkhorn(self.teacher_head(self.teacher.pool(seen)), heat), sinkhorn(self.teacher_head(hidden), heat)

    def said(self, views: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The student's cosines, of crops (B, 2 + L, K) and of masked patches (M, K), and its vectors (B, 2, D)."""
        rows, masked = len(views["large"]), views["masked"].flatten(0, 1)
        seen = states(self.student, views["large"].flatten(0, 1), masked=(masked, self.token))
        vectors = [self.student.pool(seen).unflatten(0, (rows, LARGE))]
        if self.config.small:
            small = self.student.pool(states(self.student, views["small"].flatten(0, 1)))
            vectors.append(small.unflatten(0, (rows, self.config.small)))
        crops = torch.cat(vectors, 1)  # (B, 2 + L, D)
        # One pass of the head for all.
        answers = self.head(torch.cat([crops.flatten(0, 1), seen[:, -self.patches :][masked]]))
        return (
            answers[: crops[..., 0].numel()].unflatten(0, crops.shape[:2]),
            answers[crops[..., 0].numel() :],
            vectors[0],
        )

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """The student's cross-entropies with the teacher's answers to other crops, and to the masked patches."""
        views = views or self.views(batch, draw)
        config, (rank, world) = self.config, processes()
        told, told_patches = self.told(views)
        said, said_patches, vectors = self.said(views)
        rows, crops = said.shape[:2]
        pairs = cross_entropy(told.view(rows, LARGE, 1, -1), said[:, None], config.student_temperature)  # (B, 2, 2 + L)
        other = ~torch.eye(LARGE, crops, dtype=torch.bool, device=pairs.device)  # never the crop that the teacher saw
        example = pairs[:, other].mean(1)
        patches = cross_entropy(told_patches, said_patches, config.student_temperature)
        count = sum_over_processes(patches.new_tensor(float(len(patches)))).clamp(min=1.0)
        # The mean over the patches of all processes, which data parallelism makes a mean over processes of; the token
        # is in the graph where none is masked.
        patch_loss = patches.sum() * (world / count) + 0.0 * self.token.sum()
        near = [nearness(z, gather(z.contiguous()), rank * rows).mean() for z in vectors.unbind(1)]
        nothing = math.log(config.prototypes)
        return {
            "loss": example.mean() + config.patch_weight * patch_loss + config.spread * torch.stack(near).sum(),
            "count": example.new_tensor(rows),
            "trivial": example.new_tensor((1 + config.patch_weight) * nothing),
            "crop_loss": example.mean(),
            "patch_loss": patch_loss,
            "teacher_entropy": entropy_share(told),
            "example_loss": example,
            "example_difficulty": example.detach() / nothing,  # of the crops alone, whatever the patches
        }

    def heat(self) -> Tensor:
        """The teacher's temperature at this place of the run."""
        arrived = (self.clock[0] / 0.3).clamp(max=1.0)
        return (self.config.teacher_temperature * (2 + arrived) / 3).float()

    def after_step(self, progress: float) -> None:
        """The teacher follows, the slower the more of the run is done."""
        step = progress - float(self.clock[0])
        if step > 0:  # a run that was given more begins anew with a smaller share
            self.clock[1] = step
        self.clock[0] = progress
        momentum = teacher_momentum(float(self.clock[1]), progress, self.config.memory)
        follow(self.teacher, self.student, momentum)
        follow(self.teacher_head, self.head, momentum)

    def encoders(self) -> Mapping[str, ImageEncoder]:
        """The teacher's encoder, which is the better one (Caron et al. 2021, section 5.2)."""
        return {"image": self.encoder}

    def limits(self) -> Mapping[str, Limit]:
        """Wide ranges around what the papers tried; rules of thumb."""
        return {
            "batch": Limit(64, math.inf, "the prototypes are shared out among the pictures of a batch"),
            "prototypes": Limit(64, 131_072, "few answers tell few pictures apart"),
            "teacher_temperature": Limit(0.02, 0.09, "the teacher names one answer only, or says little"),
            "mask_rate": Limit(0.1, 0.7, "neighbors give masked patches away, or nothing is left to tell them from"),
        }

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The picture, its large crops as the student sees them, a small one, and where the teacher looks."""
        views = self.views(batch, draw)
        mean, sd = (torch.tensor(values)[:, None, None] for values in (self.facts.mean, self.facts.sd))
        edge = self.facts.size // math.isqrt(self.patches)
        size = views["large"].shape[-1]
        cut = patchify(views["large"].flatten(0, 1).cpu(), edge)
        shown = unpatchify(cut.masked_fill(views["masked"].flatten(0, 1).cpu()[..., None], 0.0), edge, size)
        pages = {f"large {i}": page for i, page in enumerate(shown.unflatten(0, (-1, LARGE)).unbind(1))}
        if self.config.small:
            pages["small"] = views["small"][:, 0].cpu()
        pages = {name: page * sd + mean for name, page in pages.items()}
        if self.teacher.cls_token is not None:
            looked = class_attention(self.teacher, views["large"][:, 0]).mean(1, keepdim=True)  # (B, 1, h, w)
            looked = looked / looked.amax((2, 3), keepdim=True)
            pages["attention to large 0"] = F.interpolate(looked.float().cpu(), (size, size))
        return {"picture": batch["image"].permute(0, 3, 1, 2).cpu() / 255, **pages}


def build(config: Config, facts: ImageFacts, encoders: Mapping[str, ImageEncoder]) -> DINO:
    """DINO around an encoder; a network whose patches cannot be masked is refused."""
    return DINO(config, facts, encoders["image"])


def recipe() -> Recipe:
    """A setting for small pictures and one machine (docs/decisions.md); its rates are not tuned yet."""
    return Recipe(
        objective="dino",
        config=Config(),
        data=ImageData(source="sample:glyphs"),
        backbone=ImageBackbone(),
        optimizer=Optimizer(batch=64, optimizer="muon", rate=1e-3, matrix_rate=0.01, momentum=0.95, decay=0.05),
        budget=Budget(minutes=1.2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="dino",
        config=Config(small=1, prototypes=64, hidden=32, bottleneck=16, memory=0.1),
        data=ImageData(source="sample:digits", pixels=16),
        backbone=ImageBackbone(size="nano", patch=4),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

"""DINO with masked patches from a folder of pictures, end to end, beside lightly's components as in its DINOv2 example.

    python benchmarks/dino.py [--quick] [--data cifar10] [--what vit-s16 narrow]

See `beside_lightly.py`. Both have two large and two small crops, the same head (its sizes), and the losses of crops,
masked patches and nearness.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from beside_lightly import TRANSFORMERS, TRANSFORMERS_ON_GPU, Peer, run
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models import utils
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from lightly.transforms import DINOTransform
from torch import Tensor, nn

from selfsup.loop import Training

MOMENTUM = 0.99


class Lightly(Peer):
    """lightly's example of DINOv2, with one head."""

    def build(self, training: Training) -> None:
        """Student and teacher."""
        config, objective, device = training.recipe.config, training.objective, self.runtime.device
        self.config, self.side = config, round(objective.patches**0.5)
        self.student = MaskedVisionTransformerTIMM(
            deepcopy(objective.student), weight_initialization="skip", pos_embed_initialization="skip"
        ).to(device)
        sizes = objective.student.embed_dim, config.hidden, config.bottleneck, config.prototypes
        self.head, self.teacher_head = (DINOProjectionHead(*sizes).to(device) for _ in range(2))
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.teacher = deepcopy(self.student)
        self.network = self.teacher.vit
        for module in (self.teacher, self.teacher_head):
            utils.deactivate_requires_grad(module)
        heat = {"teacher_temp": config.teacher_temperature, "student_temp": config.student_temperature}
        self.crops = DINOLoss(config.prototypes, **heat).to(device)
        self.patches = IBOTPatchLoss(config.prototypes, **heat).to(device)
        self.apart = KoLeoLoss()
        self.trained = nn.ModuleList([self.student, self.head])

    def transform(self, training: Training, normalize: dict[str, list[float]]) -> DINOTransform:
        """Large and small crops."""
        config, size = training.recipe.config, training.objective.facts.size
        small = config.small_size or size // 2
        return DINOTransform(
            global_crop_size=size, global_crop_scale=(config.large_min, 1.0), local_crop_size=small,
            local_crop_scale=(config.small_min, config.large_min), n_local_views=config.small, hf_prob=config.flip,
            cj_strength=config.color, random_gray_scale=config.gray, gaussian_blur=(0, 0, 0), solarization_prob=0,
            normalize=normalize,
        )  # fmt: skip

    def loss(self, views: list[Tensor]) -> Tensor:
        """Of crops, masked patches and nearness."""
        config, rows = self.config, len(views[0])
        large = torch.cat(views[:2])
        block = utils.random_block_mask(
            (len(large), self.side, self.side), config.masked_crops, config.mask_rate, config.mask_rate,
            device=large.device,
        )  # fmt: skip
        mask = torch.zeros(len(large), self.student.sequence_length, dtype=torch.bool, device=large.device)
        mask[:, -(self.side**2) :] = block.flatten(1)
        with torch.no_grad():
            seen = self.teacher.encode(large)
            told, told_patches = self.teacher_head(seen[:, 0]), self.teacher_head(seen[mask])
        seen = self.student.encode(large, mask=mask)
        said, said_patches = self.head(seen[:, 0]), self.head(seen[mask])
        small = self.head(self.student.encode(torch.cat(views[2:]))[:, 0]).float() if config.small else said[:0]
        crops = self.crops(list(told.float().chunk(2)), [*said.float().chunk(2), *small.split(rows)])
        patches = self.patches(told_patches.float(), said_patches.float(), block)
        apart = sum(self.apart(z.float()) for z in seen[:, 0].chunk(2))
        return crops + config.patch_weight * patches + config.spread * apart

    def step(self, views: list[Tensor]) -> None:
        """The same, and the teacher follows."""
        super().step(views)
        utils.update_momentum(self.student, self.teacher, MOMENTUM)
        utils.update_momentum(self.head, self.teacher_head, MOMENTUM)


if __name__ == "__main__":
    run(
        __doc__, "dino", Lightly, TRANSFORMERS, TRANSFORMERS_ON_GPU,
        {
            "teacher": "selfsup: Sinkhorn's algorithm, lightly: a center; momentum by shares of the run against 0.99",
            "masks": "selfsup: single patches, lightly: blocks",
            "colors": "selfsup: one matrix a picture, hue about the gray axis",
        },
    )  # fmt: skip

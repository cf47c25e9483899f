"""SimCLR from a folder of pictures, end to end, beside lightly's transform, head, loss and loop.

    python benchmarks/simclr.py [--quick] [--data cifar10] [--what resnet18 narrow]

See `beside_lightly.py`.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from beside_lightly import Cases, Peer, run
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn

from selfsup.loop import Training

CASES: Cases = {"resnet18": ({"network": "resnet18"}, 64, 3), "narrow": ({"size": "nano"}, 256, 30)}
ON_GPU: Cases = {"resnet18": ({"network": "resnet18"}, 512, 60), "narrow": ({"size": "nano"}, 512, 60)}


class Lightly(Peer):
    """lightly's example of SimCLR."""

    def build(self, training: Training) -> None:
        """Network and projection."""
        config = training.recipe.config
        self.network = deepcopy(training.objective.backbone)
        width = training.objective.encoder.width
        self.head = SimCLRProjectionHead(width, config.hidden, config.output).to(self.runtime.device)
        self.criterion = NTXentLoss(temperature=config.temperature)
        self.trained = nn.ModuleList([self.network, self.head])

    def transform(self, training: Training, normalize: dict[str, list[float]]) -> SimCLRTransform:
        """Two views."""
        config, size = training.recipe.config, training.objective.facts.size
        return SimCLRTransform(
            input_size=size, min_scale=config.crop_min, cj_strength=config.color, hf_prob=config.flip,
            random_gray_scale=config.gray, gaussian_blur=config.blur, normalize=normalize,
        )  # fmt: skip

    def loss(self, views: list[Tensor]) -> Tensor:
        """NT-Xent."""
        first, second = self.head(self.network(torch.cat(views))).float().chunk(2)
        return self.criterion(first, second)


if __name__ == "__main__":
    run(
        __doc__, "simclr", Lightly, CASES, ON_GPU,
        {"colors": "selfsup: one matrix a picture, hue about the gray axis"},
    )  # fmt: skip

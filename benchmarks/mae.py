"""MAE from a folder of pictures, end to end, beside lightly's transform, masked transformer, decoder and loop.

    python benchmarks/mae.py [--quick] [--data cifar10] [--what vit-s16 narrow]

See `beside_lightly.py`. Both have selfsup's decoder (its width and depth) and standardized patches to tell.
"""

from __future__ import annotations

from copy import deepcopy

from beside_lightly import TRANSFORMERS, TRANSFORMERS_ON_GPU, Peer, run
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.transforms import MAETransform
from torch import Tensor, nn

from selfsup.loop import Training


class Lightly(Peer):
    """lightly's example of MAE."""

    def build(self, training: Training) -> None:
        """Masked encoder and decoder."""
        config, objective = training.recipe.config, training.objective
        self.network, self.edge, self.rate = deepcopy(objective.backbone), objective.edge, config.mask_rate
        self.encoder = MaskedVisionTransformerTIMM(
            self.network, weight_initialization="skip", pos_embed_initialization="skip"
        )
        width, device = config.decoder_width, self.runtime.device
        self.enter = nn.Linear(self.network.embed_dim, width).to(device)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            objective.patches, width, config.decoder_layers, width // 32, self.network.num_prefix_tokens
        ).to(device)
        self.leave = nn.Linear(width, self.edge**2 * objective.facts.channels).to(device)
        self.criterion = nn.MSELoss()
        self.trained = nn.ModuleList([self.encoder, self.enter, self.decoder, self.leave])
        self.encoder.mask_token.requires_grad_(False)  # of no use here

    def transform(self, training: Training, normalize: dict[str, list[float]]) -> MAETransform:
        """One view."""
        config, size = training.recipe.config, training.objective.facts.size
        return MAETransform(input_size=size, min_scale=config.crop_min, normalize=normalize)

    def loss(self, views: list[Tensor]) -> Tensor:
        """Mean squared error of the hidden patches."""
        (images,) = views
        length = self.encoder.sequence_length
        keep, mask = utils.random_token_mask((len(images), length), self.rate, device=images.device)
        x = self.enter(self.encoder.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        decoded = self.decoder(utils.set_at_index(tokens, keep, x.type_as(tokens)))
        told = self.leave(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(images, self.edge), mask - 1)
        return self.criterion(told.float(), utils.normalize_mean_var(target))


if __name__ == "__main__":
    run(
        __doc__, "mae", Lightly, TRANSFORMERS, TRANSFORMERS_ON_GPU,
        {"crops": "selfsup: bilinear with antialiasing, lightly: bicubic"},
    )  # fmt: skip

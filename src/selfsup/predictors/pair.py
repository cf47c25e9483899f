"""Two towers in one space, in use: pictures and texts as vectors whose cosines say what belongs together."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, TimmWrapperConfig, VisionTextDualEncoderConfig

from selfsup.encoder import ABOUT, Encoder, evaluating
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.joint import Projected, Projection
from selfsup.predictors.predictor import Predictor
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import whole_state
from selfsup.text_reading import Reading, reading_of

Loss = Literal["softmax", "sigmoid"]


class CaptionEncoder(TextEncoder):
    """A text tower with its projection: vectors of length 1 in the space of pictures and texts."""

    def __init__(self, tower: TextEncoder, projection: Projection) -> None:
        super().__init__(tower.model, tower.tokenizer, tower.context, tower.reading)
        self.projection = projection
        self._whole = nn.ModuleDict({"tower": self.model.base_model, "projection": projection})

    @property
    def module(self) -> nn.Module:  # type: ignore[override]
        """Network and projection."""
        return self._whole

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.projection.out_features

    def _vector(self, output: Any, inside: Tensor) -> Tensor:  # noqa: ANN401 - transformers' output
        return self.projection(self.reading.vector(output, inside))


class Pair(Predictor):
    """Two towers, the projections behind them and the temperature.

    Attributes:
        image, text: the towers.
        projections: from the vectors of each to the common space.
        log_scale: logarithm of one over the temperature.
        bias: SigLIP's, from minus the log of the number of candidates on.
        loss: that it was trained with.
    """

    kind = "pair"

    def __init__(
        self, image: ImageEncoder, text: TextEncoder, projections: tuple[Projection, Projection], loss: Loss
    ) -> None:
        self.image, self.text, self.projections, self.loss = image, text, projections, loss
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(()), requires_grad=loss == "sigmoid")

    @classmethod
    def around(
        cls, image: ImageEncoder, text: TextEncoder, context: int, output: int, temperature: float, loss: Loss
    ) -> Pair:
        """Two towers with fresh projections.

        Args:
            image: tower of pictures.
            text: tower of texts, with its head or without.
            context: tokens that are read of a text.
            output: width of the common space.
            temperature: to begin with.
            loss: that it will be trained with.
        """
        text = text.without_head()
        given, tokenizer = text.reading, text.tokenizer
        # What a text was put behind before is not put there in training.
        reading = Reading("pooler" if given == Reading() and text.pooler and has_pooler(text.model) else given.pool)
        if tokenizer.pad_token_id is None:  # who loads the export makes batches
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        for name, part in text.model.named_children():
            if "pooler" in name and reading.pool != "pooler":  # which the vector does not pass through
                part.requires_grad_(False)
        tower = TextEncoder(text.model, tokenizer, context, reading)
        projections = Projection(image.width, output), Projection(text.width, output)
        pair = cls(image, tower, projections, loss)
        pair.set_temperature(temperature)
        return pair

    def set_temperature(self, temperature: float) -> None:
        """Begin with a temperature."""
        with torch.no_grad():
            self.log_scale.fill_(math.log(1 / temperature))

    @property
    def module(self) -> nn.Module:
        """Both networks with their projections."""
        return nn.ModuleList([self.image.module, self.text.module, *self.projections])

    @property
    def scale(self) -> float:
        """One over the temperature."""
        return float(self.log_scale.detach().exp())

    def sides(self) -> dict[str, Encoder]:
        """Encoders of the common space, by what they read: `image` and `text`."""
        image, text = self.projections
        return {
            "image": ImageEncoder(Projected(self.image.module, image), self.image.about),
            "text": CaptionEncoder(self.text, text),
        }

    def start_from(self, folder: Path, sides: Collection[Literal["image", "text"]] = ("image", "text")) -> None:
        """Take over what a pair wrote: projections of the same widths, and of both the temperature and the bias, too.

        Args:
            folder: of the other pair.
            sides: whose towers came from there.
        """
        other, taken = Pair.load(folder), 0
        with torch.no_grad():
            for side, own, given in zip(("image", "text"), self.projections, other.projections, strict=True):
                if side in sides and own.weight.shape == given.weight.shape:
                    own.weight.copy_(given.weight)
                    taken += 1
            if taken == len(self.projections):
                self.log_scale.copy_(other.log_scale)
                self.bias.copy_(other.bias)

    def save(self, folder: Path) -> None:
        """Write a folder that `VisionTextDualEncoderModel` and `AutoTokenizer` load.

        The class reads texts by a pooler; to those whose tower has none it gives no vector, but has all weights.
        """
        about, network = self.image.about, self.text.model
        arguments = {name: value for name, value in about.arguments.items() if name != "num_classes"}
        vision = TimmWrapperConfig(architecture=about.network, model_args=arguments).to_dict()
        vision |= {"hidden_size": self.image.width, "num_classes": 0, "label_names": []}  # which timm's wrapper lacks
        config = VisionTextDualEncoderConfig(
            vision_config=vision, text_config=network.config.to_dict(),
            projection_dim=self.projections[0].out_features, logit_scale_init_value=float(self.log_scale.detach()),
        )  # fmt: skip
        config.architectures = ["VisionTextDualEncoderModel"]
        image, text = self.projections
        state = {
            **{f"vision_model.timm_model.{name}": value for name, value in self.image.module.state_dict().items()},
            **{f"text_model.{name}": value for name, value in whole_state(network, AutoModel).items()},
            "visual_projection.weight": image.weight, "text_projection.weight": text.weight,
            "logit_scale": self.log_scale,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(folder)
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in state.items()},
            folder / "model.safetensors", {"format": "pt"},
        )  # fmt: skip
        self.text.tokenizer.save_pretrained(folder)
        record = {
            "encoder": None, "predictor": self.kind, "image": asdict(about), "context": self.text.context,
            "reading": asdict(self.text.reading), "loss": self.loss, "bias": float(self.bias.detach()),
        }  # fmt: skip
        (folder / ABOUT).write_text(json.dumps(record, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Pair:
        """The inverse of `save`."""
        record, state = json.loads((folder / ABOUT).read_text()), load_file(folder / "model.safetensors")

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

        image = ImageEncoder.of_record(record["image"], part("vision_model.timm_model."))
        network = AutoModel.from_config(VisionTextDualEncoderConfig.from_pretrained(folder).text_config)
        network.load_state_dict(part("text_model."))
        text = TextEncoder(network.eval(), AutoTokenizer.from_pretrained(folder), record["context"], reading_of(record))
        first, second = state["visual_projection.weight"], state["text_projection.weight"]
        pair = cls(image, text, (Projection(*first.shape[::-1]), Projection(*second.shape[::-1])), record["loss"])
        with torch.no_grad():
            for projection, weight in zip(pair.projections, (first, second), strict=True):
                projection.weight.copy_(weight)
            pair.log_scale.copy_(state["logit_scale"])
            pair.bias.fill_(record["bias"])
        return pair


def has_pooler(network: PreTrainedModel) -> bool:
    """Whether a network has a vector of its own for a text.

    Raises:
        UserError: it makes nothing of a text alone.
    """
    ids = torch.zeros(1, 2, dtype=torch.int64, device=network.device)
    try:
        with evaluating(network):
            return network(input_ids=ids).get("pooler_output") is not None
    except (AttributeError, TypeError, ValueError) as error:
        name = type(network).__name__
        raise UserError(f"--text-init: a {name} is no network for texts alone; give one such as BERT") from error

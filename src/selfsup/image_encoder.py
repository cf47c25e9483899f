"""Encoders of pictures: timm networks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import load_model_config_from_hf
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsup.data.crops import resize
from selfsup.data.decode import to_square
from selfsup.data.pixels import PixelStore
from selfsup.encoder import ABOUT, Encoder, evaluating
from selfsup.errors import UserError
from selfsup.image_network import SMALL, check_patches, keep_resolution, pooled_width
from selfsup.nn.attention import class_attention

log = logging.getLogger("selfsup")


@dataclass(frozen=True)
class ImageAbout:
    """What an image encoder is, as it stands beside its weights.

    Attributes:
        network: name of the timm architecture.
        arguments: of timm's constructor.
        size: edge of the pictures in pixels.
        mean, sd: of pixels in [0, 1], one a channel.
        stem: lines that change the stem of a fresh network, or None.
    """

    network: str
    arguments: dict[str, Any]
    size: int
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    stem: str | None = None


class ImageEncoder(Encoder):
    """A timm network without a classifier, with the size, mean and deviation of its pictures.

    Samples are PIL images, (H, W) or (H, W, C) arrays, or a `PixelStore`.
    """

    kind = "image"

    def __init__(self, module: nn.Module, about: ImageAbout) -> None:
        # Channels last is what convolutions are fastest with: twice as fast on a CPU (docs/results.md).
        self.module, self.about = module.to(memory_format=torch.channels_last), about  # type: ignore[call-overload]

    @classmethod
    def create(
        cls, network: str, arguments: dict[str, Any], size: int, mean: Sequence[float], sd: Sequence[float]
    ) -> ImageEncoder:
        """A network with fresh weights from torch's generator.

        Raises:
            UserError: timm has no such network, or not for such pictures.
        """
        if network not in timm.list_models():
            close = timm.list_models(f"*{network}*")[:5] or get_close_matches(network, timm.list_models(), 5)
            raise UserError(f"--network {network}: timm has none of that name; near: {', '.join(close) or 'none'}")
        arguments = {**arguments, "in_chans": len(mean), "num_classes": 0}
        try:
            module = timm.create_model(network, **arguments)
            check_patches(network, module, size)
            pooled_width(module, len(mean), size)  # some networks refuse a size only when they see a picture
        except (TypeError, AssertionError, RuntimeError) as error:
            raise UserError(
                f"--network {network} cannot be built for {size} px, {len(mean)} channels: {error}"
            ) from error
        stem = keep_resolution(module) if size < SMALL else None
        return cls(module, ImageAbout(network, arguments, size, tuple(mean), tuple(sd), stem))

    @classmethod
    def from_hub(cls, name: str) -> ImageEncoder:
        """A pretrained network: `timm:` and a name of timm, or `hf:` and a hub id. Uses the network.

        Raises:
            UserError: there is none, or it cannot be fetched.
        """
        place, _, ident = name.partition(":")
        if place == "timm" and not timm.is_model_pretrained(ident):
            near = ", ".join(get_close_matches(ident, timm.list_pretrained(), 5)) or "none"
            raise UserError(f"{name}: timm has no pretrained weights of that name; near: {near}")
        try:
            model = ident if place == "timm" else f"hf-hub:{ident}"
            module = timm.create_model(model, pretrained=True, num_classes=0)
            chosen = {} if place == "timm" else load_model_config_from_hf(ident)[2] or {}
        except Exception as error:  # from a missing network to a missing file, each its own kind
            reason = " ".join(str(error).split())[:140]
            raise UserError(f"{name} cannot be loaded from the hub ({reason}); check the id and the network") from error
        return cls._as_pretrained(module, chosen)

    @classmethod
    def from_timm(cls, folder: Path) -> ImageEncoder:
        """A folder as `timm.models.save_for_hf` writes it: `config.json` beside weights.

        Raises:
            UserError: it cannot be loaded.
        """
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            module = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        except Exception as error:
            reason = " ".join(str(error).split())[:140]
            raise UserError(f"{folder} cannot be loaded by timm ({reason})") from error
        return cls._as_pretrained(module, config.get("model_args") or {})

    @classmethod
    def _as_pretrained(cls, module: nn.Module, chosen: dict[str, Any]) -> ImageEncoder:
        """Around a network that timm loaded; `chosen` are the arguments that its config has beside the name."""
        found = cast(dict[str, Any], module.pretrained_cfg)
        channels, _, size = found["input_size"]
        size = chosen.get("img_size") or size  # timm 1.0.27 says there what the network had before its arguments
        arguments = {**chosen, "in_chans": channels, "num_classes": 0}
        mean, sd = tuple(found["mean"]), tuple(found["std"])
        if len(mean) != channels:  # timm gives those of color pictures to any
            mean, sd = (0.5,) * channels, (0.25,) * channels
        edge = size if isinstance(size, int) else size[-1]
        return cls(module, ImageAbout(found["architecture"], arguments, edge, mean, sd))

    @staticmethod
    def knows(folder: Path) -> bool:
        """Whether a folder holds a network of timm."""
        try:
            return "architecture" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or no JSON
            return False

    def adapted(self, size: int, mean: Sequence[float], sd: Sequence[float], sizes: bool) -> ImageEncoder:
        """The same weights for pictures of another size, mean and deviation; positions are interpolated.

        Args:
            size: edge of the pictures in pixels.
            mean: of pixels in [0, 1], one a channel.
            sd: their deviation.
            sizes: whether a vision transformer is to take pictures of other sizes, too.

        Raises:
            UserError: the pictures are not whole numbers of patches.
        """
        about = replace(self.about, size=size, mean=tuple(mean), sd=tuple(sd))
        if not isinstance(self.module, VisionTransformer) or (size == self.about.size and not sizes):
            return ImageEncoder(self.module, about)
        check_patches(about.network, self.module, size)
        self.module.set_input_size((size, size))
        arguments = {**about.arguments, "img_size": size, **({"dynamic_img_size": True} if sizes else {})}
        module = timm.create_model(about.network, **arguments)
        module.load_state_dict(self.module.state_dict())
        return ImageEncoder(module, replace(about, arguments=arguments))

    @property
    def width(self) -> int:
        """D, numbers in a vector."""
        return pooled_width(self.module, len(self.about.mean), self.about.size)

    @property
    def patch(self) -> int | None:
        """Edge of the patches of a plain vision transformer in pixels; None for other networks."""
        network = self.module
        return network.patch_embed.patch_size[0] if isinstance(network, VisionTransformer) else None

    def _squares(self, samples: Sequence | PixelStore, start: int, stop: int) -> Tensor:
        """(B, R, R, C) uint8 of some samples."""
        rows = np.arange(start, min(stop, len(samples)))
        size, channels = self.about.size, len(self.about.mean)
        if isinstance(samples, PixelStore):
            squares = torch.from_numpy(samples.pixels(rows))
            if samples.channels not in (1, channels):
                raise UserError(f"the pictures have {samples.channels} channels, the encoder sees {channels}")
            return squares.expand(-1, -1, -1, channels)
        pictures = [
            sample if isinstance(sample, Image.Image) else np.atleast_3d(sample) for sample in samples[start:stop]
        ]
        return torch.from_numpy(np.stack([to_square(picture, size, channels) for picture in pictures]))

    def inputs(self, squares: Tensor) -> Tensor:
        """(B, C, S, S) normalized, from (B, R, R, C) uint8: the whole picture, antialiased, on the network's device."""
        about, device = self.about, self.device
        mean, sd = (torch.tensor(values, device=device)[:, None, None] for values in (about.mean, about.sd))
        return (resize(squares.to(device), about.size) - mean) / sd

    def _batches(self, samples: Sequence | PixelStore, batch: int) -> Iterator[Tensor]:
        return (self.inputs(self._squares(samples, at, at + batch)) for at in range(0, len(samples), batch))

    def encode(self, samples: Sequence | PixelStore, batch: int | None = None) -> Tensor:
        """(N, D) float32 on the CPU."""
        batch = batch or (64 if self.device.type == "cpu" else 256)  # outputs of layers that stay in the cache
        with evaluating(self.module):
            return torch.cat([self.module(x).float().cpu() for x in self._batches(samples, batch)])

    def vectors(self, samples: Sequence | PixelStore) -> Tensor:
        """(B, D) with gradients."""
        return self.module(self.inputs(self._squares(samples, 0, len(samples))))

    def fresh(self, seed: int) -> ImageEncoder:
        """The same network with new random weights."""
        about = self.about
        arguments = {name: value for name, value in about.arguments.items() if name not in ("in_chans", "num_classes")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return ImageEncoder.create(about.network, arguments, about.size, about.mean, about.sd)

    def layers(self, samples: Sequence | PixelStore, batch: int = 256) -> list[Tensor]:
        """Mean-pooled output of each stage or block: (N, D_l) float32 on the CPU."""
        found: list[list[Tensor]] = []
        with evaluating(self.module):
            for x in self._batches(samples, batch):
                maps = self.module.forward_intermediates(x, intermediates_only=True)  # type: ignore[operator]
                found.append([m.float().mean((2, 3)).cpu() for m in maps])  # (B, D_l, h, w) -> (B, D_l)
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def attention(self, samples: Sequence | PixelStore, batch: int = 64) -> Tensor:
        """(N, H, h, w) float32 on the CPU: how much the class token attends to each patch in the last block, by head.

        Raises:
            UserError: the network is no plain vision transformer with a class token.
        """
        if not isinstance(self.module, VisionTransformer) or self.module.cls_token is None:
            raise UserError(f"{self.about.network} has no class token whose attention could be shown")
        with evaluating(self.module):
            return torch.cat([class_attention(self.module, x).float().cpu() for x in self._batches(samples, batch)])

    def calibrate(self, samples: Sequence | PixelStore, batch: int = 256) -> None:
        """Give every batch norm the statistics of one pass over the samples; weights stay as they are."""
        norms = [part for part in self.module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        with evaluating(self.module):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None: the plain mean over batches
            for x in self._batches(samples, batch):
                self.module(x)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def save(self, folder: Path) -> None:
        """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        about = self.about
        state = {name: value.detach().cpu().contiguous() for name, value in self.module.state_dict().items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        config = {
            "architecture": about.network,
            "num_classes": 0,
            "num_features": self.width,
            "global_pool": about.arguments.get("global_pool", "token" if "vit" in about.network else "avg"),
            "model_args": {name: value for name, value in about.arguments.items() if name != "num_classes"},
            "pretrained_cfg": {
                "input_size": [len(about.mean), about.size, about.size],
                "fixed_input_size": False,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": "squash",
                "mean": about.mean,
                "std": about.sd,
                "num_classes": 0,
                "first_conv": None,
                "classifier": None,
            },
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        (folder / ABOUT).write_text(json.dumps({"encoder": "image", **about.__dict__}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> ImageEncoder:
        """The inverse of `save`."""
        return cls.of_record(json.loads((folder / ABOUT).read_text()), load_file(folder / "model.safetensors"))

    @classmethod
    def of_record(cls, record: dict[str, Any], state: dict[str, Tensor]) -> ImageEncoder:
        """From its `ImageAbout` as JSON has it, and its weights."""

        def frozen(given: dict[str, Any]) -> dict[str, Any]:
            return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}

        fields = {**frozen(record), "arguments": frozen(record["arguments"])}
        about = ImageAbout(**{name: value for name, value in fields.items() if name != "encoder"})
        module = timm.create_model(about.network, **about.arguments)
        if about.stem:
            keep_resolution(module)
        module.load_state_dict(state)
        return cls(module, about)

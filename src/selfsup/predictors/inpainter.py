"""A network that fills in what is missing in pictures, in use."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfsup.encoder import ABOUT, evaluating
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.filling import FillingNetwork
from selfsup.predictors.predictor import Predictor

PROGRAM = "network.pt2"


class Inpainter(Predictor):
    """An encoder of pictures with the decoder that fills them.

    Attributes:
        network: from normalized pictures and holes to whole pictures.
        encoder: whose network it holds; knows size, mean and deviation.
        inner: channels of the decoder.
    """

    kind = "reconstruct"

    def __init__(self, network: FillingNetwork, encoder: ImageEncoder, inner: int) -> None:
        self.network, self.encoder, self.inner = network, encoder, inner

    @property
    def module(self) -> FillingNetwork:
        """The live network, with its decoder."""
        return self.network

    def fill(self, pictures: Tensor, hole: Tensor) -> Tensor:
        """Whole pictures.

        Args:
            pictures: (B, C, S, S) in [0, 1], on any device.
            hole: (B, 1, S, S) bool.

        Returns:
            (B, C, S, S) in [0, 1] on the CPU.
        """
        about, device = self.encoder.about, self.encoder.device
        mean, sd = (torch.tensor(values, device=device)[:, None, None] for values in (about.mean, about.sd))
        with evaluating(self.network):
            filled = self.network((pictures.to(device) - mean) / sd, hole.to(device))
        return (filled.float() * sd + mean).clamp(0, 1).cpu()

    def save(self, folder: Path) -> None:
        """Write the encoder as timm loads it, and the decoder's weights beside it."""
        self.encoder.save(folder / "encoder")
        decoder = {name: value.detach().cpu().contiguous() for name, value in self.network.decoder.state_dict().items()}
        save_file(decoder, folder / "decoder.safetensors", {"format": "pt"})
        about = {"encoder": None, "predictor": self.kind, "inner": self.inner}
        (folder / ABOUT).write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, folder: Path) -> Inpainter:
        """The inverse of `save`."""
        encoder, inner = ImageEncoder.load(folder / "encoder"), json.loads((folder / ABOUT).read_text())["inner"]
        network = FillingNetwork(encoder.module, inner, encoder.about.size, len(encoder.about.mean))
        network.decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
        return cls(network, encoder, inner)

    def compile(self, folder: Path) -> None:
        """Write the network as a program of `torch.export`, which runs without selfsup and timm."""
        about = self.encoder.about
        pictures = torch.zeros(2, len(about.mean), about.size, about.size)
        hole = torch.zeros(2, 1, about.size, about.size, dtype=torch.bool)
        batch = torch.export.Dim("batch")
        network = deepcopy(self.network).cpu().eval()
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # what the archive can hold
        program = torch.export.export(network, (pictures, hole), dynamic_shapes=({0: batch}, {0: batch}))
        torch.export.save(program, folder / PROGRAM)

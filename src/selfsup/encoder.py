"""What leaves a run: a network that turns samples into vectors."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from selfsup.errors import UserError

ABOUT = "selfsup.json"  # beside the weights: what a library's own files do not say


class Encoder(ABC):
    """Turns samples into vectors; batches and normalizes by itself, leaves mode and statistics as they were.

    Attributes:
        kind: `image` or `text`.
        module: the live network.
    """

    kind: str
    module: nn.Module

    @abstractmethod
    def encode(self, samples: Sequence) -> Tensor:
        """(N, D) float32 on the CPU: one vector a sample."""

    @abstractmethod
    def layers(self, samples: Sequence) -> list[Tensor]:
        """The same from the output of each block: (N, D_l) float32 on the CPU, first block first."""

    @abstractmethod
    def vectors(self, samples: Sequence) -> Tensor:
        """(B, D) of one batch on the network's device, with gradients, in the mode that the network is in."""

    @abstractmethod
    def fresh(self, seed: int) -> Encoder:
        """The same network with new random weights."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that timm or transformers loads."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> Encoder:
        """This encoder, its network moved to a device."""
        self.module.to(device)
        return self


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def load_encoder(place: str | os.PathLike, name: str | None = None) -> Encoder:
    """The encoder in a run, in an exported folder, or of a hub id.

    Args:
        place: a run, a folder that selfsup wrote, that has a network of timm or a text network of transformers with its
            tokenizer, or pretrained weights: `timm:NAME` or `hf:ID`.
        name: which encoder of a run; its first when not given.

    Raises:
        UserError: there is none.
    """
    from selfsup.image_encoder import ImageEncoder
    from selfsup.text_encoder import TextEncoder
    from selfsup.word_vectors import WordVectors

    kinds = {"image": ImageEncoder, "text": TextEncoder, "words": WordVectors}
    text = os.fspath(place)
    if text.startswith("hf:") and TextEncoder.knows(text):
        return TextEncoder.from_hub(text, None)
    if text.startswith(("hf:", "timm:")):
        return ImageEncoder.from_hub(text)
    folder = Path(text)
    if not folder.exists():  # a mistyped path must not go to the network
        raise UserError(f"{text}: no such run or folder; for pretrained weights type timm:NAME or hf:ID")
    if (folder / "run.json").exists():
        saved = sorted(entry.parent for entry in (folder / "model").glob(f"*/{ABOUT}"))
        named = {entry.name: entry for entry in saved if json.loads((entry / ABOUT).read_text())["encoder"]}
        if not named:
            raise UserError(
                f"{folder} has no model yet: it was stopped before its first checkpoint; selfsup resume {folder}"
            )
        if name is not None and name not in named:
            raise UserError(f"{folder} has no encoder {name!r}; allowed: {', '.join(named)}")
        folder = named[name or next(iter(named))]
    if not (folder / ABOUT).exists() and TextEncoder.knows(text):
        return TextEncoder.from_hub(text, None)
    if not (folder / ABOUT).exists() and ImageEncoder.knows(folder):
        return ImageEncoder.from_timm(folder)
    if not (folder / ABOUT).exists():
        raise UserError(f"{folder} holds no {ABOUT}: it is neither a run nor a folder with a network")
    about = json.loads((folder / ABOUT).read_text())
    if about["encoder"] is None:
        raise UserError(f"{folder} holds a head, not an encoder; the encoder lies beside it")
    return kinds[about["encoder"]].load(folder)

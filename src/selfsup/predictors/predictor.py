"""The contract of a predictor: a head that has a use of its own after training."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, TypeVar

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from selfsup.encoder import ABOUT
from selfsup.text_network import Auto, save_network

Loaded = TypeVar("Loaded", bound="Predictor")
LoadedText = TypeVar("LoadedText", bound="TextPredictor")
Kind = Literal["generate", "fill", "order", "reconstruct", "pair"]


class Predictor(ABC):
    """A network with its head, in the ecosystem's class where one exists.

    Attributes:
        kind: which verb uses it.
    """

    kind: Kind

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The live network, with its head."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that the network's own library loads."""

    @classmethod
    @abstractmethod
    def load(cls: type[Loaded], folder: Path) -> Loaded:
        """The inverse of `save`."""


class TextPredictor(Predictor):
    """A transformers network with a head, and its tokenizer.

    Attributes:
        auto: the class of transformers that loads it.
        network: the live one, with its head.
        tokenizer: of the network.
        context: tokens that the network can read at once.
    """

    auto: Auto

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self.network, self.tokenizer, self.context = network, tokenizer, context

    @property
    def module(self) -> nn.Module:
        """The live network, with its head."""
        return self.network

    def save(self, folder: Path) -> None:
        """Write a folder that `auto` and `AutoTokenizer` load."""
        save_network(self.network, self.auto, folder)
        self.tokenizer.save_pretrained(folder)
        about = {"encoder": None, "predictor": self.kind, "context": self.context}
        (folder / ABOUT).write_text(json.dumps(about, indent=2))

    def start_from(self, folder: Path) -> None:
        """Take over the weights, head and all, that a predictor of this kind on the same body wrote."""
        disable_progress_bar()
        self.network.load_state_dict(self.auto.from_pretrained(folder).state_dict())

    @classmethod
    def load(cls: type[LoadedText], folder: Path) -> LoadedText:
        """The inverse of `save`."""
        disable_progress_bar()
        record = json.loads((folder / ABOUT).read_text())
        return cls(cls.auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), record["context"])

"""Heads that have a use of their own after training."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from selfsup.data.tokenizer import end_id
from selfsup.encoder import ABOUT, evaluating

Kind = Literal["generate", "fill", "order", "reconstruct", "pair"]


class Predictor(ABC):
    """A network with its head, in the ecosystem's class where one exists.

    Attributes:
        kind: which verb uses it.
        module: the live network.
    """

    kind: Kind
    module: nn.Module

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder that the network's own library loads."""


class Generator(Predictor):
    """Continues a text, token by token.

    Attributes:
        tokenizer: of the network.
        context: tokens that the network can look back on.
    """

    kind = "generate"

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self.module, self.tokenizer, self.context = module, tokenizer, context

    def stream(self, prompt: str, tokens: int, temperature: float, top_k: int, seed: int) -> Iterator[int]:
        """New token ids, one by one, until the end of a document or `tokens` of them.

        Keys and values of past tokens are kept; when the window is full, its second half starts a new one.

        Args:
            prompt: text to continue; empty for the start of a document.
            tokens: most tokens to make.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: candidates at each step; 0 for all.
            seed: of the choice among them.
        """
        end, device = end_id(self.tokenizer), next(self.module.parameters()).device
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] or [end]
        choice = torch.Generator(device).manual_seed(seed)
        # transformers renamed the argument in 5.24 and warns of the older name.
        name = "cache" if "cache" in inspect.signature(self.module.forward).parameters else "past_key_values"
        config = self.module.config
        fresh, past = ids[-self.context :], DynamicCache(config=config)  # type: ignore[arg-type]
        window = list(fresh)
        for _ in range(tokens):
            if len(window) > self.context:
                window = window[-(self.context // 2 or 1) :]
                fresh, past = window, DynamicCache(config=config)  # type: ignore[arg-type]
            with evaluating(self.module):  # not around the yield: a generator may be left halfway
                output = self.module(torch.tensor([fresh], device=device), use_cache=True, **{name: past})
                logits = output.logits[0, -1].float()  # (V,)
                if temperature == 0:
                    token = int(logits.argmax())
                else:
                    if 0 < top_k < len(logits):
                        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
                    token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=choice))
            if token == end:
                return
            yield token
            window.append(token)
            fresh = [token]

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load."""
        disable_progress_bar()  # a bar for one file of a few MB
        self.module.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        (folder / ABOUT).write_text(
            json.dumps({"encoder": None, "predictor": self.kind, "context": self.context}, indent=2)
        )

    @classmethod
    def load(cls, folder: Path) -> Generator:
        """The inverse of `save`."""
        disable_progress_bar()
        record = json.loads((folder / ABOUT).read_text())
        model = AutoModelForCausalLM.from_pretrained(folder)
        return cls(model, AutoTokenizer.from_pretrained(folder), record["context"])

"""Encoders of text: transformers networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from selfsup.data.tokenizer import end_id
from selfsup.encoder import ABOUT, Encoder, evaluating
from selfsup.errors import UserError
from selfsup.ops.pooling import masked_mean

# size -> layers, heads, width
SIZES = {"nano": (4, 4, 128), "tiny": (6, 8, 256), "small": (8, 8, 512), "base": (12, 12, 768)}


# GPT-2's own name for it, `gelu_new`, is the same function in eight operations: 12 % of a step (docs/decisions.md).
FUSED_GELU = "gelu_pytorch_tanh"
# What transformers' causal networks call their rates of dropout.
DROPOUTS = (
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "activation_dropout",
)


class TextEncoder(Encoder):
    """A transformers network with its tokenizer; the vector of a text is the mean of its last hidden states.

    Attributes:
        model: the network with the head it was pretrained with, where it has one.
        tokenizer: of the network.
        context: tokens that are read; the rest of a longer text is cut off.
    """

    kind = "text"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self.model, self.tokenizer, self.context = model, tokenizer, context

    @property
    def module(self) -> nn.Module:  # type: ignore[override]
        """The network without its head."""
        return self.model.base_model

    @classmethod
    def create(
        cls, tokenizer: PreTrainedTokenizerBase, context: int, layers: int, heads: int, width: int, dropout: float
    ) -> TextEncoder:
        """A GPT-2 with fresh weights from torch's generator.

        Raises:
            UserError: the width is no multiple of the heads.
        """
        if width % heads:
            raise UserError(
                f"--width {width} is no multiple of --heads {heads}; try --width {-(-width // heads) * heads}"
            )
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=context, n_embd=width, n_layer=layers, n_head=heads,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, activation_function=FUSED_GELU,
            bos_token_id=end_id(tokenizer), eos_token_id=end_id(tokenizer),
        )  # fmt: skip
        return cls(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"), tokenizer, context)

    @classmethod
    def from_hub(cls, name: str, context: int | None = None, dropout: float = 0.0) -> TextEncoder:
        """A pretrained causal network: a folder, or `hf:` and a hub id, which uses the network.

        Args:
            name: of the folder, or the id.
            context: tokens that it will be given; all that it can read when not given.
            dropout: in place of what it was trained with.

        Raises:
            UserError: there is none, or it cannot be fetched.
        """
        place = name.removeprefix("hf:")
        try:
            config = AutoConfig.from_pretrained(place)
            given = config.to_dict()
            changed: dict[str, Any] = {name: dropout for name in DROPOUTS if name in given}
            if given.get("activation_function") == "gelu_new":
                changed["activation_function"] = FUSED_GELU
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **changed)
            tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:140]
            raise UserError(
                f"{name} cannot be loaded ({reason}); check the id and the network, or give a folder"
            ) from error
        longest = int(model.config.max_position_embeddings)
        if context is not None and context > longest:
            raise UserError(f"--context {context} is more than {name} can read; the most is {longest}")
        return cls(model, tokenizer, context or longest)

    def _batches(self, samples: Sequence[str], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, L) ids and (B,) lengths of texts in order, padded with the end token; an empty text is one end token."""
        end = end_id(self.tokenizer)
        for start in range(0, len(samples), batch):
            texts = list(samples[start : start + batch])
            rows = self.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            cut = [ids[: self.context] or [end] for ids in rows]
            length = torch.tensor([len(ids) for ids in cut])
            padded = torch.full((len(cut), int(length.max())), end)
            for row, ids in zip(padded, cut, strict=True):
                row[: len(ids)] = torch.tensor(ids)
            yield padded.to(self.device), length.to(self.device)

    def _pooled(self, samples: Sequence[str], batch: int, pick: Callable[[Any], Sequence[Tensor]]) -> list[Tensor]:
        """Mean over each text's own tokens of the hidden states that `pick` takes from the network's output."""
        found: list[list[Tensor]] = []
        with evaluating(self.module):
            for ids, length in self._batches(samples, batch):
                mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
                output = self.module(ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
                found.append([masked_mean(states.float(), mask).cpu() for states in pick(output)])
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def encode(self, samples: Sequence[str], batch: int = 64) -> Tensor:
        """(N, D) float32 on the CPU."""
        return self._pooled(samples, batch, lambda output: [output.last_hidden_state])[0]

    def vectors(self, samples: Sequence[str]) -> Tensor:
        """(B, D) with gradients."""
        ids, length = next(self._batches(samples, len(samples)))
        mask = torch.arange(ids.shape[1], device=ids.device) < length[:, None]
        return masked_mean(self.module(ids, attention_mask=mask.long(), use_cache=False).last_hidden_state, mask)

    def fresh(self, seed: int) -> TextEncoder:
        """The same network with new random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModel.from_config(self.model.config, attn_implementation="sdpa")
        return TextEncoder(model, self.tokenizer, self.context)

    def layers(self, samples: Sequence[str], batch: int = 64) -> list[Tensor]:
        """(N, D) float32 on the CPU after each block."""
        return self._pooled(samples, batch, lambda output: output.hidden_states[1:])

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModel` and `AutoTokenizer` load."""
        disable_progress_bar()  # a bar for one file of a few MB
        cast(PreTrainedModel, self.model.base_model).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / ABOUT).write_text(json.dumps({"encoder": "text", "context": self.context}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """The inverse of `save`."""
        disable_progress_bar()
        record = json.loads((folder / ABOUT).read_text())
        return cls(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), record["context"])

"""Encoders of text: transformers networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from selfsup.data.tokenizer import Template, end_id, require_fast, with_template, without_template
from selfsup.encoder import ABOUT, Encoder, evaluating
from selfsup.errors import UserError
from selfsup.ops.pooling import masked_mean
from selfsup.text_network import FUSED_GELU, HEADS, Family, Shape, fresh_network, save_network

# What transformers' networks call their rates of dropout.
DROPOUTS = (
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "activation_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embedding_dropout",
    "mlp_dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
    "cls_dropout",
    "pooler_dropout",
)
FAR = 2048  # tokens that are read of a text where neither the network nor its tokenizer sets a limit


def looks_ahead(network: PreTrainedModel) -> bool:
    """Whether the logits of a network change with tokens behind them, and not by rounding alone."""
    last = int(network.config.vocab_size) - 1  # far from marks, which some networks look at
    ids = torch.tensor([[last] * 4, [last] * 3 + [last - 1]])
    with evaluating(network):
        first, second = network(input_ids=ids).logits
    change = (first - second).abs().amax(-1)  # (4,)
    return bool(change[:3].max() > 1e-4 * change[3])


def longest_text(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Tokens that a network can read with its tokenizer; None where neither has a limit.

    RoBERTa's positions begin behind its padding: what its tokenizer says is what it can read.
    """
    try:
        positions = config.max_position_embeddings
    except AttributeError:  # relative positions, or a state that is carried on
        positions = None
    most = tokenizer.model_max_length  # a huge number where it is not known
    found = min(most, positions) if isinstance(positions, int) and positions > 0 else most
    return int(found) if found < 1 << 30 else None


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
    def create(cls, family: Family, tokenizer: PreTrainedTokenizerBase, context: int, shape: Shape) -> TextEncoder:
        """A network with fresh weights from torch's generator; see `fresh_network`."""
        ready = with_template(tokenizer) if family == "encoder" else without_template(tokenizer)
        ready.model_max_length = context
        return cls(fresh_network(family, ready, context, shape), ready, context)

    @staticmethod
    def knows(name: str) -> bool:
        """Whether a folder, or `hf:` and a hub id, is a text network of transformers; timm writes no kind of model."""
        try:
            given = PreTrainedConfig.get_config_dict(name.removeprefix("hf:"))[0]
        except OSError:
            return False
        return "model_type" in given and "vocab_size" in given

    @classmethod
    def from_hub(
        cls, name: str, family: Family | None, context: int | None = None, dropout: float = 0.0
    ) -> TextEncoder:
        """A pretrained network: a folder, or `hf:` and a hub id, which uses the network.

        Args:
            name: of the folder, or the id.
            family: with the head of which family; without a head when None.
            context: tokens that it will be given; all that it can read when not given.
            dropout: in place of what it was trained with.

        Raises:
            UserError: there is none, or it cannot be fetched, or has no such head, or has that of a decoder and looks
                ahead.
        """
        place = name.removeprefix("hf:")
        disable_progress_bar()
        try:
            config = AutoConfig.from_pretrained(place)
            given = config.to_dict()
            changed: dict[str, Any] = {name: dropout for name in DROPOUTS if name in given}
            for name_of_gelu in ("activation_function", "hidden_act"):
                if given.get(name_of_gelu) == "gelu_new":
                    changed[name_of_gelu] = FUSED_GELU
            auto = AutoModel if family is None else HEADS[family][0]
            model = auto.from_pretrained(place, dtype=torch.float32, **changed)
            tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:140]
            raise UserError(
                f"{name} cannot be loaded ({reason}); check the id and the network, or give a folder"
            ) from error
        require_fast(tokenizer, name)
        if family == "decoder" and looks_ahead(model):
            raise UserError(f"{name} sees the words that it would have to tell; give a network that looks back only")
        longest = longest_text(model.config, tokenizer)
        if context is not None and longest is not None and context > longest:
            raise UserError(f"--context {context} is more than {name} can read; the most is {longest}")
        return cls(model, tokenizer, context or longest or FAR)

    def _batches(self, samples: Sequence[str], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, L) ids and (B,) lengths of texts in order, each between the tokenizer's marks, if it has such.

        They are padded with the end token; an empty text is one end token.
        """
        end, marks = end_id(self.tokenizer), Template.of(self.tokenizer)
        room = self.context - len(marks.start) - len(marks.stop)
        for start in range(0, len(samples), batch):
            texts = list(samples[start : start + batch])
            rows = self.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            cut = [[*marks.start, *(ids[:room] or [end]), *marks.stop] for ids in rows]
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
            model = AutoModel.from_config(self.model.config)
        return TextEncoder(model, self.tokenizer, self.context)

    def layers(self, samples: Sequence[str], batch: int = 64) -> list[Tensor]:
        """(N, D) float32 on the CPU after each block."""
        return self._pooled(samples, batch, lambda output: output.hidden_states[1:])

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModel` and `AutoTokenizer` load."""
        assert isinstance(self.module, PreTrainedModel)
        save_network(self.module, AutoModel, folder)
        self.tokenizer.save_pretrained(folder)
        (folder / ABOUT).write_text(json.dumps({"encoder": "text", "context": self.context}, indent=2))

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """The inverse of `save`."""
        disable_progress_bar()
        record = json.loads((folder / ABOUT).read_text())
        return cls(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), record["context"])

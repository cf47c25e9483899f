"""Encoders of text: transformers networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPTextModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipTextModel,
)
from transformers.utils.logging import disable_progress_bar

from selfsup.data.tokenizer import Template, end_id, require_fast, with_template, without_template
from selfsup.encoder import ABOUT, Encoder, evaluating
from selfsup.errors import UserError
from selfsup.nn.ragged import close_groups, length_groups
from selfsup.text_network import FUSED_GELU, HEADS, Family, Shape, fresh_network, save_network
from selfsup.text_reading import Reading, Role, reading_of

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
HALVES: dict[str, Any] = {"clip": CLIPTextModel, "siglip": SiglipTextModel}  # of two towers the one for texts
FAR = 2048  # tokens that are read of a text where neither the network nor its tokenizer sets a limit
WINDOW = 8192  # texts that are sorted by length at once
TOKENS = (1 << 11, 1 << 16)  # that pass the network at once, on a CPU, where more do not fit its caches, and elsewhere
SPARE = (1 << 5, 1 << 12)  # that pass it in the time that a call costs


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
    """A transformers network with its tokenizer.

    Attributes:
        model: the network with the head it was pretrained with, where it has one.
        tokenizer: of the network.
        context: tokens that are read; the rest of a longer text is cut off.
        reading: how its last hidden states become a vector.
        pooler: whether a pooler that it may have was learned: transformers fills in one that is missing by chance.
    """

    kind = "text"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: int, reading: Reading | None = None
    ) -> None:
        self.model, self.tokenizer, self.context = model, tokenizer, context
        self.reading, self.pooler = reading or Reading(), True

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.model.config.hidden_size)

    def without_head(self) -> TextEncoder:
        """The same network without the head it was pretrained with."""
        body = self.module
        assert isinstance(body, PreTrainedModel)
        found = TextEncoder(body, self.tokenizer, self.context, self.reading)
        found.pooler = self.pooler
        return found

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
            auto: Any = HEADS[family][0] if family else HALVES.get(config.model_type, AutoModel)
            model, about_loading = auto.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **changed)
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
        about = Path(place) / ABOUT
        reading = reading_of(json.loads(about.read_text())) if about.exists() else None
        found = cls(model, tokenizer, context or longest or FAR, reading)
        found.pooler = not any("pooler" in key for key in about_loading["missing_keys"])
        return found

    def room(self, role: Role | None = None) -> int:
        """Tokens that are read of a text itself, beside the tokenizer's marks and what is put in front of a role."""
        marks, prompt = Template.of(self.tokenizer), self.reading.prompt(role)
        taken = len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
        return self.context - len(marks.start) - len(marks.stop) - taken

    def _tokens(self, samples: Sequence[str], role: Role | None) -> tuple[np.ndarray, np.ndarray]:
        """(all,) ids of texts one after the other, each between the tokenizer's marks, if it has any, and (B,) lengths.

        An empty text is one end token.
        """
        end, marks, prompt = end_id(self.tokenizer), Template.of(self.tokenizer), self.reading.prompt(role)
        room = self.context - len(marks.start) - len(marks.stop)
        backend: Any = self.tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        backend.no_truncation()  # as its folder may have it
        backend.no_padding()
        texts = [prompt + text for text in samples] if prompt else list(samples)
        found = backend.encode_batch_fast(texts, add_special_tokens=False)
        rows = [[*marks.start, *(one.ids[:room] or [end]), *marks.stop] for one in found]
        return np.concatenate([np.array(row, np.int64) for row in rows]), np.array([len(row) for row in rows], np.int64)

    def _batches(
        self, samples: Sequence[str], role: Role | None, learning: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Numbers (n,) of some texts, their ids (n, L), and (n, L) which of these are theirs; see `_tokens`.

        Texts of about equal length are together, so that there is little padding, with the end token.

        Args:
            samples: the texts.
            role: what they are.
            learning: whether gradients are wanted, which makes many calls dear; else groups are bounded and closer.
        """
        elsewhere = self.device.type != "cpu"
        for start in range(0, len(samples), WINDOW):
            flat, sizes = map(torch.from_numpy, self._tokens(samples[start : start + WINDOW], role))
            begins = sizes.cumsum(0) - sizes
            groups = length_groups(sizes) if learning else close_groups(sizes, TOKENS[elsewhere], SPARE[elsewhere])
            for rows in groups:
                place = torch.arange(int(sizes[rows[0]]))
                inside = place < sizes[rows, None]
                ids = flat[(begins[rows, None] + place).clamp(max=len(flat) - 1)]
                ids = ids.where(inside, end_id(self.tokenizer))
                yield start + rows, ids.to(self.device), inside.to(self.device)

    def _states(self, ids: Tensor, inside: Tensor, layers: bool = False) -> Any:  # noqa: ANN401 - transformers' output
        """What the network says of a batch; without a mask, where none is needed, attention has its fastest kernel."""
        mask = None if bool(inside.all()) else inside.long()
        return self.model.base_model(ids, attention_mask=mask, output_hidden_states=layers, use_cache=False)

    def _vector(self, output: Any, inside: Tensor) -> Tensor:  # noqa: ANN401 - transformers' output
        """(B, D) of what the network says of a batch."""
        return self.reading.vector(output, inside)

    def _pooled(
        self, samples: Sequence[str], role: Role | None, pick: Callable[[Any, Tensor], Sequence[Tensor]],
        layers: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """What `pick` makes of each batch's output, in the order of the texts, on the CPU."""
        found: list[Tensor] = []
        with evaluating(self.module):
            for rows, ids, inside in self._batches(samples, role, learning=False):
                some = pick(self._states(ids, inside, layers), inside)
                found = found or [torch.empty(len(samples), one.shape[1]) for one in some]
                for whole, one in zip(found, some, strict=True):
                    whole[rows] = one.cpu()
        return found

    def encode(self, samples: Sequence[str], role: Role | None = None) -> Tensor:
        """(N, D) float32 on the CPU, the same for a text whatever others there are, up to rounding.

        Args:
            samples: N texts.
            role: what the texts are, for an encoder that puts something in front of these.
        """
        if not len(samples):
            return torch.empty(0, self.width)
        return self._pooled(samples, role, lambda output, inside: [self._vector(output, inside)])[0]

    def vectors(self, samples: Sequence[str]) -> Tensor:
        """(B, D) with gradients."""
        parts = [
            (rows, self._vector(self._states(ids, inside), inside))
            for rows, ids, inside in self._batches(samples, None, learning=True)
        ]
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return torch.cat([part for _, part in parts])[order.to(self.device)]

    def fresh(self, seed: int) -> TextEncoder:
        """The same network with new random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModel.from_config(self.model.config)
        return TextEncoder(model, self.tokenizer, self.context, self.reading)

    def layers(self, samples: Sequence[str]) -> list[Tensor]:
        """(N, D) float32 on the CPU after each block."""
        return self._pooled(
            samples, None,
            lambda output, inside: [self.reading.of_states(states, inside) for states in output.hidden_states[1:]],
            layers=True,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a folder that `AutoModel` and `AutoTokenizer` load."""
        assert isinstance(self.module, PreTrainedModel)
        save_network(self.module, AutoModel, folder)
        self.tokenizer.save_pretrained(folder)
        about = {"encoder": "text", "context": self.context, "reading": asdict(self.reading)}
        (folder / ABOUT).write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, folder: Path) -> TextEncoder:
        """The inverse of `save`."""
        disable_progress_bar()
        record = json.loads((folder / ABOUT).read_text())
        model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        return cls(model, tokenizer, record["context"], reading_of(record))

"""Causal language model: predict every token from the ones before it.

Radford et al. 2018, 2019 ("GPT", "GPT-2"): text hides its own continuation; a transformer whose attention looks only
backward gives each next token a probability, and the loss is its cross-entropy, averaged over all tokens.

Batch keys: `tokens` (B, T + 1) ids, `tokens_length` (B,). Views: `input`, `target`, `counted` (bool), each (B, T), or
(B, T / W, W) while training looks at shorter windows of W tokens, which cost less (`--context-start`).
Exported: the encoder `text` (mean of the last hidden states) and the predictor `generate`
(`AutoModelForCausalLM` with its tokenizer).
Differs from GPT-2: Muon for the hidden matrices, no dropout by default, beta_2 0.95 and warm-up by share of the run,
as in later practice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from selfsup.backbones import TextBackbone
from selfsup.data.facts import TextFacts
from selfsup.data.text import WindowReader
from selfsup.data.token_store import TokenStore
from selfsup.fields import STRICT, Count
from selfsup.nn.head import token_losses
from selfsup.objective import Batch, Draw, Losses, Need, Objective
from selfsup.predictors.generator import Generator
from selfsup.recipes import Budget, Optimizer, Recipe, TextData
from selfsup.text_encoder import TextEncoder

GROWN = 0.5  # share of the steps after which windows are whole


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of the causal language model."""

    context: Count = 128
    """Tokens in a window: how far back a prediction can look."""
    context_start: Count | None = None
    """Tokens in a window when training begins; it doubles until it is the whole window at half of the steps."""

    def __post_init__(self) -> None:
        """Refuse a window that doubling does not lead to."""
        start = self.context_start or self.context
        if self.context % start or (self.context // start).bit_count() != 1:
            allowed = ", ".join(str(self.context >> k) for k in range(1, 5) if not self.context % (1 << k))
            raise ValueError(f"--context-start {start}: allowed are halves of --context {self.context}: {allowed}")


def backbones(config: Config, facts: TextFacts) -> dict[str, Need]:
    """One causal transformer that reads a window."""
    return {"text": Need("decoder", context=config.context)}


def reader(config: Config, store: TokenStore) -> WindowReader:
    """A row is a window of tokens with the token that follows."""
    return WindowReader(store, config.context)


class CausalLM(Objective):
    """A transformer with its language-model head."""

    couples_rows = False

    def __init__(self, config: Config, facts: TextFacts, encoder: TextEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        self.network = encoder.model
        self.window: Tensor  # tokens that training looks at together now
        self.register_buffer("window", torch.tensor(config.context_start or config.context))

    def after_step(self, progress: float) -> None:
        """The window doubles at equal intervals, the last time at half of the steps; more steps do not shrink it."""
        start = self.config.context_start or self.config.context
        doublings = (self.config.context // start).bit_length() - 1
        self.window.clamp_(min=start << min(int(progress / GROWN * doublings), doublings))

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """`input` and `target` (B, T), one token apart, and which targets there are."""
        tokens = batch["tokens"]
        place = torch.arange(tokens.shape[1] - 1, device=tokens.device)
        counted = place < batch["tokens_length"][:, None] - 1
        found = {"input": tokens[:, :-1], "target": tokens[:, 1:], "counted": counted}
        window = int(self.window) if self.training else self.config.context
        if window == self.config.context:
            return found
        return {name: value.unflatten(1, (-1, window)) for name, value in found.items()}

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Mean cross-entropy of the next tokens, in nats."""
        shown = views or self.views(batch, draw)
        windows = shown["input"].flatten(0, -2)  # (N, W)
        states = self.network.base_model(input_ids=windows, use_cache=False).last_hidden_state  # (N, W, D)
        nats, correct = token_losses(self.network, states.flatten(0, 1), shown["target"].flatten())
        counted = shown["counted"].flatten(1)  # (B, T)
        nats, correct = nats.view(counted.shape) * counted, correct.view(counted.shape) & counted
        of_rows = counted.sum(1)
        count, per_row = of_rows.sum(), of_rows.clamp(min=1)
        return {
            "loss": nats.sum() / count,
            "count": count,
            "trivial": nats.new_tensor(math.log(self.facts.vocabulary)),
            "accuracy": correct.sum() / count,
            "example_loss": nats.sum(1) / per_row,
            "example_count": of_rows,
        }

    def encoders(self) -> Mapping[str, TextEncoder]:
        """The transformer without its head."""
        return {"text": self.encoder}

    def predictors(self) -> tuple[Generator]:
        """The transformer with its head: it continues a text."""
        return (Generator(self.network, self.encoder.tokenizer, self.config.context),)


def build(config: Config, facts: TextFacts, encoders: Mapping[str, TextEncoder]) -> CausalLM:
    """The language model around a causal transformer."""
    return CausalLM(config, facts, encoders["text"])


def recipe() -> Recipe:
    """The measured setting for one machine (docs/results.md)."""
    return Recipe(
        objective="causal_lm",
        config=Config(),
        data=TextData(source="sample:prose"),
        backbone=TextBackbone(),
        optimizer=Optimizer(
            batch=32, optimizer="muon", rate=4e-3, matrix_rate=0.02, momentum=0.95, decay=0.1, warmup=0.05
        ),
        budget=Budget(minutes=2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="causal_lm",
        config=Config(context=32),
        data=TextData(source="sample:prose", tokenizer="byte"),
        backbone=TextBackbone(layers=2, heads=2, width=32),
        optimizer=Optimizer(batch=8, rate=2e-3),
        budget=Budget(steps=30),
    )

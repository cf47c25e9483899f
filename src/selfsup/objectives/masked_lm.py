"""Masked language model: tell the words that were hidden from the words around them.

Devlin et al. 2019 ("BERT"): 15 % of the tokens are chosen; 80 % of these are replaced by a mask, 10 % by another token,
10 % stay; a transformer whose attention looks both ways gives each its probability, and the loss is the cross-entropy
at the chosen places. Every epoch hides other tokens (Liu et al. 2019, "RoBERTa"); whole words, or spans (Joshi et
al. 2020, "SpanBERT"), make the task harder where words are cut into pieces.

Batch keys: `tokens` (B, L) ids, `tokens_length` (B,). Views: `input`, `target` (B, W), `counted` (B, W) bool, `length`.
Exported: the encoder `text` (mean of the last hidden states) and the predictor `fill` (`AutoModelForMaskedLM`).
Differs from BERT: a ModernBERT (Warner et al. 2024) where no other network is given; no second objective, little
padding, no dropout by default, Muon for the hidden matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from selfsup.backbones import TextBackbone
from selfsup.data.facts import TextFacts
from selfsup.data.text import TextReader, WindowReader, windows_or_texts
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import Template
from selfsup.errors import UserError
from selfsup.fields import STRICT, Count
from selfsup.nn.head import token_losses
from selfsup.nn.masked_words import MaskedWords, Unit, require_mask
from selfsup.nn.ragged import marked, passes
from selfsup.objective import Batch, Draw, Losses, Need, Objective
from selfsup.predictors.filler import Filler
from selfsup.recipes import Budget, Optimizer, Recipe, TextData
from selfsup.text_encoder import TextEncoder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of the masked language model."""

    context: Count = 128
    """Tokens that the network reads at once, marks included."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that is to be told."""
    unit: Unit = "token"
    """What is hidden as a whole: a token, a word of several tokens, or a span of 3.8 tokens on average."""
    rows: Literal["windows", "texts"] | None = None
    """Windows of the whole text, or one text a row; texts where most are shorter than half a window, if not given."""


def backbones(config: Config, facts: TextFacts) -> dict[str, Need]:
    """One transformer that looks both ways; the tokenizer has to have a mask."""
    require_mask(facts)
    return {"text": Need("encoder", context=config.context)}


def reader(config: Config, store: TokenStore) -> WindowReader | TextReader:
    """A row is a window of tokens, or a text; see `--rows`."""
    marks = Template.for_encoder(store.tokenizer)
    room = config.context - len(marks.start) - len(marks.stop)
    if room < 1:
        raise UserError(f"--context {config.context} leaves no room for words between the tokenizer's marks")
    if config.rows == "windows":
        return WindowReader(store, room, ahead=0)
    return TextReader(store, room) if config.rows == "texts" else windows_or_texts(store, room)


class MaskedLM(Objective):
    """A transformer with its head for masked words."""

    couples_rows = False

    def __init__(self, config: Config, facts: TextFacts, encoder: TextEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        self.network = encoder.model
        self.words = MaskedWords(encoder.tokenizer, config.mask_rate, config.unit)
        self.template = Template.of(encoder.tokenizer)

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """`input` and `target` (B, W) with the tokenizer's marks, `length` (B,), and `counted`, what was hidden."""
        target, length, _ = marked(self.template, (batch["tokens"], batch["tokens_length"]))
        shown, hidden = self.words.hide(target, length, draw)
        return {"input": shown, "target": target, "counted": hidden, "length": length}

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Mean cross-entropy of the hidden tokens, in nats."""
        shown = views or self.views(batch, draw)
        states, targets, owners = [], [], []
        for rows, last, _, _ in passes(self.network, shown["input"], shown["length"]):
            width = last.shape[1]
            hidden = shown["counted"][rows, :width]
            states.append(last[hidden])
            targets.append(shown["target"][rows, :width][hidden])
            owners.append(rows[:, None].expand_as(hidden)[hidden])
        nats, correct = token_losses(self.network, torch.cat(states), torch.cat(targets))  # (M,)
        of_rows = shown["counted"].sum(1)
        count, per_row = of_rows.sum().clamp(min=1), of_rows.clamp(min=1)
        of_row = nats.new_zeros(len(per_row)).index_add(0, torch.cat(owners), nats)
        return {
            "loss": nats.sum() / count,
            "count": count,
            "trivial": nats.new_tensor(math.log(self.facts.vocabulary)),
            "accuracy": correct.sum() / count,
            "example_loss": of_row / per_row,
            "example_count": of_rows,
        }

    def encoders(self) -> Mapping[str, TextEncoder]:
        """The transformer without its head."""
        return {"text": self.encoder}

    def predictors(self) -> tuple[Filler]:
        """The transformer with its head: it fills in what is missing."""
        return (Filler(self.network, self.encoder.tokenizer, self.config.context),)


def build(config: Config, facts: TextFacts, encoders: Mapping[str, TextEncoder]) -> MaskedLM:
    """The masked language model around a transformer."""
    return MaskedLM(config, facts, encoders["text"])


def recipe() -> Recipe:
    """The measured setting for one machine (docs/results.md)."""
    return Recipe(
        objective="masked_lm",
        config=Config(),
        data=TextData(source="sample:prose"),
        backbone=TextBackbone(),
        optimizer=Optimizer(
            batch=32, optimizer="muon", rate=8e-3, matrix_rate=0.02, momentum=0.95, decay=0.1, warmup=0.05
        ),
        budget=Budget(minutes=2),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="masked_lm",
        config=Config(context=32),
        data=TextData(source="sample:prose", tokenizer="byte"),
        backbone=TextBackbone(layers=2, heads=2, width=32),
        optimizer=Optimizer(batch=8, rate=2e-3),
        budget=Budget(steps=30),
    )

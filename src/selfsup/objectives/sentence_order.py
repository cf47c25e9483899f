"""Sentence order: tell which of several arrangements of passages was the author's.

Lan et al. 2020 ("ALBERT", section 3.1): two consecutive segments of one document, in their order or swapped; telling
which needs coherence, where telling a random passage (Devlin et al. 2019, next sentence prediction) only needs the
topic. Here one score s(X, Y) of a pair is trained to rank the author's continuation above others,
-log softmax over s(A, B) and its rivals, at place s(A, B): s(B, A) for `swap`, s(A, C) with a foreign passage C for
`random`, and all three for `both`. Words are hidden as in BERT; the loss is that of the masked words plus that of the
order, each a mean over rows.

Batch keys: `first`, `second`, `foreign` (B, L) ids, each with `..._length` (B,). Views: `input`, `target`, `counted`,
`types` (B, K, W) and `length` (B, K) of the K arrangements, the author's first.
Exported: the encoder `text`, and the predictors `order` (`AutoModelForSequenceClassification`, whose one logit is the
score) and `fill` (`AutoModelForMaskedLM`).
Lines are joined to paragraphs (`--lines`): where they were broken at a width, their lengths tell what stands next to
what, without any meaning.
Segments are the whole sentences that fit to either side of a sentence's end, so that no length tells which came first.
Differs from ALBERT: a ranking in place of a label for each pair; a pair for each end of a sentence; short windows, in
which order is learned in fewer minutes (ALBERT's are of 512 tokens); a ModernBERT where no other network is given,
whose layers share weights only with `--share`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from selfsup.backbones import TextBackbone
from selfsup.data.facts import TextFacts
from selfsup.data.segments import SegmentReader
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import Template
from selfsup.errors import UserError
from selfsup.fields import STRICT, Count
from selfsup.nn.head import head_on, token_losses
from selfsup.nn.masked_words import MaskedWords, Unit, require_mask
from selfsup.nn.ragged import marked, passes
from selfsup.objective import Batch, Draw, Losses, Need, Objective
from selfsup.ops.language import ranking_loss
from selfsup.predictors.filler import Filler
from selfsup.predictors.ranker import Ranker
from selfsup.recipes import Budget, Optimizer, Recipe, TextData
from selfsup.text_encoder import TextEncoder

ARRANGEMENTS = {  # beside the author's, (first, second)
    "swap": (("first", "second"), ("second", "first")),
    "random": (("first", "second"), ("first", "foreign")),
    "both": (("first", "second"), ("second", "first"), ("first", "foreign")),
}

NEAR = 0.5  # of the foreign passages beside a swapped one come from the same document, where no topic tells them


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of sentence order."""

    context: Count = 64
    """Tokens that the network reads at once: two segments of whole sentences, and three marks."""
    negatives: Literal["swap", "random", "both"] = "both"
    """What the author's order has to beat: the segments swapped (SOP), a foreign second one (NSP), or both."""
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that is to be told."""
    unit: Unit = "token"
    """What is hidden as a whole: a token, a word of several tokens, or a span of 3.8 tokens on average."""


def backbones(config: Config, facts: TextFacts) -> dict[str, Need]:
    """One transformer that looks both ways; the tokenizer has to have a mask."""
    require_mask(facts)
    return {"text": Need("encoder", context=config.context)}


def reader(config: Config, store: TokenStore) -> SegmentReader:
    """A row is two consecutive segments of a document, and a foreign one."""
    marks = Template.for_encoder(store.tokenizer)
    room = (config.context - len(marks.start) - len(marks.between) - len(marks.stop)) // 2
    if room < 4:
        raise UserError(f"--context {config.context} is too short for two segments; give 16 or more")
    # Alone they come from anywhere, as in BERT.
    return SegmentReader(store, room, 0.0 if config.negatives == "random" else NEAR)


class SentenceOrder(Objective):
    """A transformer with two heads: one tells hidden words, one scores a pair."""

    couples_rows = False

    def __init__(self, config: Config, facts: TextFacts, encoder: TextEncoder) -> None:
        super().__init__()
        self.config, self.facts = config, facts
        self.encoder = encoder
        self.network = encoder.model
        self.ranker = with_ranker(self.network)
        self.words = MaskedWords(encoder.tokenizer, config.mask_rate, config.unit)
        self.template = Template.of(encoder.tokenizer)

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """The arrangements of each row between the tokenizer's marks, words hidden in each by draws of its own."""
        found: dict[str, list[Tensor]] = {}
        for number, names in enumerate(ARRANGEMENTS[self.config.negatives]):
            first, second = ((batch[name], batch[f"{name}_length"]) for name in names)
            target, length, types = marked(self.template, first, second)
            shown, hidden = self.words.hide(target, length, draw.part(str(number)))
            one = {"input": shown, "target": target, "counted": hidden, "types": types, "length": length}
            for name, value in one.items():
                found.setdefault(name, []).append(value)
        return {name: torch.stack(values, 1) for name, values in found.items()}

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """Masked words plus order, in nats."""
        shown = views or self.views(batch, draw)
        rows, count = shown["length"].shape  # B, K
        flat = {name: value.flatten(0, 1) for name, value in shown.items()}  # (B K, W)
        order, scores, states, targets, owners = [], [], [], [], []
        for some, last, inside, pooled in passes(self.network, flat["input"], flat["length"], flat["types"]):
            hidden = flat["counted"][some, : last.shape[1]]
            order.append(some)
            scores.append(head_on(self.ranker, last, pooled, inside)[:, 0])
            states.append(last[hidden])
            targets.append(flat["target"][some, : last.shape[1]][hidden])
            owners.append((some[:, None] // count).expand_as(hidden)[hidden])
        score = torch.cat(scores)[torch.cat(order).argsort()].view(rows, count)
        ranking = ranking_loss(score)  # (B,)
        nats, correct = token_losses(self.network, torch.cat(states), torch.cat(targets))  # (M,)
        owner, per_row = torch.cat(owners), shown["counted"].sum((1, 2)).clamp(min=1)
        words = nats.new_zeros(rows).index_add(0, owner, nats) / per_row  # (B,)
        right = nats.new_zeros(rows).index_add(0, owner, correct.to(nats)) / per_row
        better = (score[:, :1] > score[:, 1:]).to(nats)  # (B, K - 1)
        names = [self._rival(pair) for pair in ARRANGEMENTS[self.config.negatives][1:]]
        total = words + ranking
        return {
            "loss": total.mean(),
            "count": shown["length"].new_tensor(rows),
            "trivial": nats.new_tensor(math.log(self.facts.vocabulary) + math.log(count)),
            "masked_loss": words.mean(),
            "order_loss": ranking.mean(),
            "accuracy": right.mean(),
            **{name: better[:, number].mean() for number, name in enumerate(names)},
            "example_loss": total,
            "example_correct": (score[:, :1] > score[:, 1:]).all(1),
            "example_difficulty": ranking / math.log(count),  # of the order, whatever the words
        }

    @staticmethod
    def _rival(pair: tuple[str, str]) -> str:
        """What the share of rows is called in which the author's order beats this one."""
        return "next_accuracy" if "foreign" in pair else "order_accuracy"

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One of two, for each rival; how hidden words are told is no question of chance."""
        return {self._rival(pair): 0.5 for pair in ARRANGEMENTS[self.config.negatives][1:]}

    def encoders(self) -> Mapping[str, TextEncoder]:
        """The transformer without its heads."""
        return {"text": self.encoder}

    def predictors(self) -> tuple[Ranker, Filler]:
        """The transformer with each of its heads."""
        tokenizer, context = self.encoder.tokenizer, self.config.context
        return Ranker(self.ranker, tokenizer, context), Filler(self.network, tokenizer, context)


def with_ranker(network: PreTrainedModel) -> PreTrainedModel:
    """A network with a fresh head of one logit on the body of another, which gets a pooler if that head asks for it."""
    config = copy.deepcopy(network.config)
    config.num_labels = 1
    if "classifier_pooling" in config.to_dict():  # ModernBERT's; from a mean of states no order is seen (decisions.md)
        config.classifier_pooling = "cls"
    ranker = AutoModelForSequenceClassification.from_config(config)
    body = network.base_model
    have = dict(body.named_children())
    for name, part in ranker.base_model.named_children():
        if name not in have:
            setattr(body, name, part)
    ranker.set_submodule(ranker.base_model_prefix, body)
    return ranker


def build(config: Config, facts: TextFacts, encoders: Mapping[str, TextEncoder]) -> SentenceOrder:
    """The objective around a transformer."""
    return SentenceOrder(config, facts, encoders["text"])


def recipe() -> Recipe:
    """The measured setting for one machine (docs/results.md)."""
    return Recipe(
        objective="sentence_order",
        config=Config(),
        data=TextData(source="sample:prose", lines="join"),
        backbone=TextBackbone(),
        optimizer=Optimizer(
            batch=32, optimizer="muon", rate=8e-3, matrix_rate=0.02, momentum=0.95, decay=0.1, warmup=0.05
        ),
        budget=Budget(minutes=3),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="sentence_order",
        config=Config(context=64),
        data=TextData(source="sample:prose", tokenizer="byte", lines="join"),
        backbone=TextBackbone(layers=2, heads=2, width=32),
        optimizer=Optimizer(batch=8, rate=2e-3),
        budget=Budget(steps=30),
    )

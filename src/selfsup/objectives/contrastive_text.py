"""Text embeddings: the vector of a text should pick what belongs to it among everything else.

van den Oord, Li, Vinyals 2018 (InfoNCE, equation 4) over rows of a query, a positive and any number of negatives: a
query has to pick its positive among the positives and negatives of all rows in the batch, over all processes. What is
known to belong to it is no candidate: other positives of the query, equal texts, the query itself. Where rows have a
graded score, CoSENT (Su 2022) takes its place: pairs have to lie in the order of their scores; negatives are not read.
Without pairs two views are made of each text: two spans (Izacard et al. 2022, "Contriever"), or the same text twice
under dropout (Gao, Yao, Chen 2021, "SimCSE").

Batch keys: `texts` (B, C, L), `texts_length`, `texts_id` (B, C), `known` (B, P), `score` (B,) where there are scores;
see `GroupReader`. Views: `input` (B, C, W) and `length` (B, C), the texts between the tokenizer's marks.
Exported: the encoder `text`, which gives vectors of length 1; sentence-transformers loads it too.
Hard negatives are columns of the data (`selfsup mine` makes them), or, with `--mine-every`, mined anew as training goes
on: of the nearest texts of other rows those that are not as near as the positive (Moreira et al. 2024, "NV-Retriever").
Differs from SimCSE: no layer on top of the class token, which would be thrown away; the mean of all states is the
default.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from selfsup.backbones import TextBackbone
from selfsup.data.facts import TextFacts
from selfsup.data.pair_reader import GroupReader, PairReader, ViewReader
from selfsup.data.pair_store import PairStore
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import Template
from selfsup.errors import UserError
from selfsup.fields import STRICT, Count
from selfsup.nn.ragged import marked, text_vectors
from selfsup.objective import Batch, Draw, Limit, Losses, Need, Objective
from selfsup.ops.contrastive import cosent, info_nce
from selfsup.ops.gather import gather, processes
from selfsup.ops.mining import Kind as Mined
from selfsup.ops.mining import Rule, hard_negatives
from selfsup.ops.pooling import Pool
from selfsup.ops.precision import at_least_float32
from selfsup.recipes import Budget, Optimizer, PairData, Recipe
from selfsup.text_encoder import TOKENS, TextEncoder
from selfsup.text_reading import Reading

log = logging.getLogger("selfsup")
HOT = 100.0  # the largest of one over a learned temperature (Radford et al. 2021, "CLIP", section 2.5)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of contrastive text."""

    context: Count = 128
    """Tokens that the network reads of a text, its marks among them."""
    pool: Pool = "mean"
    """The vector of a text: the `mean` of the states of its tokens, or that of its class token (`cls`)."""
    views: Literal["spans", "dropout"] = "spans"
    """What is made of plain text: two spans of it, or the text twice, which needs --dropout."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Tau of InfoNCE and CoSENT; lower looks harder at the nearest other texts."""
    learn_temperature: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Learn the temperature too, from there."""
    sides: Literal["query", "both"] = "query"
    """Who picks: the query its positive, or the positive its query as well."""
    dimensions: tuple[Count, ...] = ()
    """Train these first numbers of the vectors to be vectors by themselves too (Matryoshka), such as 32 64."""
    chunk: Count | None = None
    """Tokens that pass the network at once, for batches beyond memory; they pass it once more for their gradients."""
    mine_every: Count | None = None
    """Steps after which hard negatives are mined anew among the positives of all rows; none are when not given."""
    mined: Count = 1
    """Mined negatives of each row."""
    mine_rule: Mined = "ratio"
    """Which near texts are left out as likely positives; see --mine-limit."""
    mine_limit: float | None = None
    """Negatives have cosines below this times the positive's (`ratio`, 0.95 when not given), below the positive's minus
    this (`margin`, 0.05), or below this (`absolute`, 0.7); `none` takes all."""
    mine_ranks: tuple[Annotated[int, Field(ge=0)], Count] = (0, 100)
    """Of the nearest texts, how many are passed over, and how many are looked at."""


def backbones(config: Config, facts: TextFacts) -> dict[str, Need]:
    """One transformer of any kind."""
    return {"text": Need("text", context=config.context)}


def reader(config: Config, store: TokenStore) -> GroupReader:
    """A row is a query with its positive and negatives, or a text that is seen twice."""
    marks = Template.for_encoder(store.tokenizer)
    room = config.context - len(marks.start) - len(marks.stop)
    if room < 1:
        raise UserError(f"--context {config.context} has no room for a text between the tokenizer's marks; give more")
    if isinstance(store, PairStore):
        return PairReader(store, room)
    return ViewReader(store, room, config.views == "spans")


class ContrastiveText(Objective):
    """A transformer whose pooled states are compared."""

    couples_rows = True
    mine_every: int | None

    def __init__(self, config: Config, facts: TextFacts, encoder: TextEncoder) -> None:
        super().__init__()
        self.config, self.encoder, self.mine_every = config, encoder, config.mine_every
        self.scored = facts.scored
        self.network = encoder.model
        self.template = Template.of(encoder.tokenizer)
        scale = torch.tensor(math.log(1 / config.temperature))
        self.log_scale = nn.Parameter(scale) if config.learn_temperature else None
        self.dimensions = [*dict.fromkeys((*config.dimensions, encoder.width))]

    @property
    def scale(self) -> Tensor:
        """One over the temperature."""
        if self.log_scale is None:
            return torch.tensor(1 / self.config.temperature, device=self.encoder.device)
        return self.log_scale.exp().clamp(max=HOT)

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """The texts between the tokenizer's marks; the two views of a text are two spans, or dropout's work."""
        texts, count = batch["texts"].flatten(0, 1), batch["texts_length"].flatten()
        ids, length, _ = marked(self.template, (texts, count))
        shape = batch["texts_length"].shape
        return {"input": ids.unflatten(0, shape), "length": length.unflatten(0, shape)}

    def vectors(self, shown: Batch, there: Tensor, most: int | None) -> Tensor:
        """(B, C, D) of all texts, at least float32, zeros where there is none; `most` tokens at once."""
        flat = there.flatten()
        ids, length = shown["input"].flatten(0, 1)[flat], shown["length"].flatten()[flat]
        found = text_vectors(self.network, ids, length, self.config.pool, most)
        found = at_least_float32(found)
        whole = found.new_zeros(len(flat), found.shape[1]).masked_scatter(flat[:, None], found)
        return whole.unflatten(0, there.shape)

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """InfoNCE, or CoSENT, in nats; the mean over all dimensions that are asked for."""
        shown = views or self.views(batch, draw)
        there = batch["texts_id"] >= 0  # (B, C)
        whole = self.vectors(shown, there, self.config.chunk)
        parts = [self._loss(F.normalize(whole[..., :size], dim=-1), batch) for size in self.dimensions]
        losses = dict(parts[-1])  # the metrics of the whole vectors
        for name in ("loss", "example_loss"):
            if name in losses:
                losses[name] = torch.stack([part[name] for part in parts]).mean(0)
        z = F.normalize(whole.detach(), dim=-1)
        near = (z[:, :1] * z[:, 1:]).sum(-1)  # (B, C - 1) cosines of the query with its own texts
        losses["positive_cosine"] = near[:, 0].mean()
        if near.shape[1] > 1:  # how hard the negatives are
            hard = there[:, 2:]
            losses["negative_cosine"] = (near[:, 1:] * hard).sum() / hard.sum().clamp(min=1)
            losses["negatives_nearer"] = ((near[:, 1:] > near[:, :1]) & hard).sum() / hard.sum().clamp(min=1)
        if self.log_scale is not None:
            losses["temperature"] = 1 / self.scale.detach()
        return losses

    def _loss(self, z: Tensor, batch: Batch) -> Losses:
        """The loss of vectors (B, C, D) of length 1."""
        count = z.new_tensor(len(z))
        if "score" in batch:
            cosines, scores = gather((z[:, 0] * z[:, 1]).sum(-1)), gather(batch["score"])
            loss = cosent(cosines, scores, self.scale)
            pairs = (scores[:, None] < scores).sum()
            return {"loss": loss, "count": count, "trivial": (1 + pairs).to(loss).log()}
        rank, _ = processes()
        ids, known = batch["texts_id"], batch["known"]
        texts, names = gather(z), gather(ids)  # (W B, C, D), (W B, C)
        own = rank * len(z) + torch.arange(len(z), device=z.device)
        there = names[:, 2:].flatten() >= 0
        candidates = torch.cat([texts[:, 1], texts[:, 2:].flatten(0, 1)[there]])  # (N, D) the positives first
        others = torch.cat([names[:, 1], names[:, 2:].flatten()[there]])[:, None]
        loss, correct = info_nce(z[:, 0], candidates, own, known, others, self.scale)
        if self.config.sides == "both":
            back, right = info_nce(z[:, 1], texts[:, 0], own, ids[:, 1:2], gather(known), self.scale)
            loss, correct = (loss + back) / 2, correct & right
        return {
            "loss": loss.mean(),
            "count": count,
            "trivial": loss.new_tensor(math.log(len(candidates))),
            "accuracy": correct.float().mean(),
            "example_loss": loss,
            "example_correct": correct,
        }

    def marks(self, batch: Batch, draw: Draw) -> Batch:
        """The vectors of queries and positives, and the ids of both."""
        two = {name: value[:, :2] for name, value in batch.items() if name.startswith("texts")}
        most = self.config.chunk or TOKENS[self.encoder.device.type != "cpu"]
        z = F.normalize(self.vectors(self.views(two, draw), two["texts_id"] >= 0, most), dim=-1)
        return {"query": z[:, 0], "positive": z[:, 1], "id": two["texts_id"][:, 1], "known": batch["known"]}

    def companions(self, marks: Batch) -> tuple[Tensor, dict[str, float]]:
        """The rows whose positives are near to a query and not its own."""
        names, number = torch.unique(marks["id"], return_inverse=True)
        rows = torch.arange(len(number))
        first = torch.full_like(names, len(number)).scatter_reduce(0, number, rows, "amin")  # row of each text
        own = (marks["query"] * marks["positive"]).sum(1)
        config = self.config
        rule = Rule(config.mine_rule, config.mine_limit, *config.mine_ranks)
        found = hard_negatives(marks["query"], marks["positive"][first], own, marks["known"], names, config.mined, rule)
        there = found.index >= 0
        about = {
            "cosine": float(found.cosines.sum() / there.sum().clamp(min=1)),
            "positive_cosine": float(own.mean()),
            "dropped": found.dropped,
            "without": float((~there).double().mean()),
        }
        return first[found.index].where(there, -1), about

    def encoders(self) -> Mapping[str, TextEncoder]:
        """The transformer, whose vectors have the length 1."""
        return {"text": self.encoder}

    def guessing(self, batch: int) -> Mapping[str, float]:
        """One positive of the batch, and less where rows have negatives of their own; pairs with scores ask nothing."""
        return {} if self.scored else {"accuracy": 1 / batch}

    def limits(self) -> Mapping[str, Limit]:
        """Wide ranges for batch and temperature; rules of thumb."""
        return {
            "batch": Limit(32, math.inf, "every text is told from the others of its batch, and these are few"),
            "temperature": Limit(
                0.005, 0.5, "tau softens all differences away when large, and sees only noise when small"
            ),
        }


def build(config: Config, facts: TextFacts, encoders: Mapping[str, TextEncoder]) -> ContrastiveText:
    """The objective around a transformer."""
    given = encoders["text"]
    reading = Reading(config.pool, True, facts.query_prompt, facts.document_prompt)
    if (given.reading.query, given.reading.document) not in (("", ""), (reading.query, reading.document)):
        log.warning(
            "the start was trained with --query-prompt %r --document-prompt %r, this run has other ones",
            given.reading.query, given.reading.document,
        )  # fmt: skip
    encoder = TextEncoder(given.model, given.tokenizer, config.context, reading)
    if config.pool == "cls" and not Template.of(encoder.tokenizer).start:
        raise UserError("--pool cls: the tokenizer puts no class token in front of a text; use --pool mean")
    over = [size for size in config.dimensions if size > encoder.width]
    if over:
        raise UserError(f"--dimensions {over[0]}: the vectors have {encoder.width} numbers; give fewer")
    if facts.scored:  # CoSENT has one way of comparing
        for flag, asked in (("--sides both", config.sides == "both"), ("--mine-every", config.mine_every)):
            if asked:
                raise UserError(f"{flag} is for pairs without a score; drop it, or take the column 'score' out")
    for name, part in encoder.module.named_children():
        if "pooler" in name:  # BERT's, which the vector does not pass through
            part.requires_grad_(False)
    if facts.plain and config.views == "dropout":
        drops = any(isinstance(part, nn.Dropout) and part.p > 0 for part in encoder.module.modules())
        if not drops:
            raise UserError("--views dropout: without dropout both views are the same; give --dropout 0.1")
    return ContrastiveText(config, facts, encoder)


def recipe() -> Recipe:
    """The setting for minutes on one machine."""
    return Recipe(
        objective="contrastive_text",
        config=Config(),
        data=PairData(source="sample:prose"),
        backbone=TextBackbone(),
        optimizer=Optimizer(batch=128, rate=1e-3),
        budget=Budget(minutes=3),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="contrastive_text",
        config=Config(context=64),
        data=PairData(source="sample:prose", tokenizer="byte"),
        backbone=TextBackbone(layers=2, heads=2, width=32),
        optimizer=Optimizer(batch=16, rate=2e-3),
        budget=Budget(steps=30),
    )

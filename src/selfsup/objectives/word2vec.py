"""Word vectors: a word tells the words around it (skip-gram), or they tell it (CBOW).

Mikolov et al. 2013 (arXiv 1301.3781, 1310.4546): two tables of vectors, of words that ask and of words that answer.
The answer has to be told from words drawn at random ("negatives"), which is logistic regression in the two tables; its
gradient is a closed form, and no network and no autograd is needed. With n-grams (Bojanowski et al. 2017, "fastText")
the vector that asks is also made of the word's letters, so that unseen words have one.

Batch keys: `tokens` (B, L) ids, `tokens_length` (B,). Views: `words` (B, L) the words that are kept, `kept` (B,) how
many, `spans` (B, L, 2) where the context of each begins and stops, `noise` (B, L / 8, S).
Exported: the encoder `text` (the table that asks; word2vec's text and binary formats, a static embedding for
sentence-transformers).
Differs from word2vec's program: the words of a block share their noise (`ops/word_blocks.py`), and change when the
block is done; rows of text are read in random order; CBOW follows the gradient of the mean, at three times the rate
(the program leaves out the division); a word of noise may be the answer itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from selfsup.backbones import WordBackbone
from selfsup.data.facts import TextFacts
from selfsup.data.text import WindowReader
from selfsup.data.token_store import TokenStore
from selfsup.fields import STRICT, Count, Share
from selfsup.objective import Batch, ClosedForm, Draw, Losses, Need
from selfsup.ops.compiled import over_rows, side_by_side
from selfsup.ops.word_blocks import BLOCK, add_changes, learn
from selfsup.ops.word_contexts import alias, draw_noise, keep_chances, show
from selfsup.recipes import Budget, Pace, Recipe, WordData
from selfsup.word_vectors import WordVectors

POWER = 0.75  # of the counts, in proportion to which noise is drawn
PIECES = 4  # of a batch for each thread, so that one which is held up takes fewer
CBOW = 3  # times the rate: the gradient of a mean is spread over its words


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Settings of word vectors."""

    method: Literal["skip-gram", "cbow"] = "skip-gram"
    """A word tells its context, or the mean of the context tells the word."""
    window: Count = 5
    """Most words on each side; every word draws a number from 1 to this."""
    negatives: Count = 5
    """Words of noise that an answer is weighed against."""
    sample: Share = 1e-3
    """Words that are a larger share of the text than this are left out at random; 0 keeps all."""
    row: Count = 1024
    """Words that are read at a time."""
    shared: Count | None = None
    """Words of noise that eight words in a row share, weighted so that they stand for --negatives; 24, for CBOW 8."""
    threads: Count | None = None
    """Threads that change the tables, without waiting for each other; as many as torch uses when not given."""
    deterministic: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """The same seed and number of threads give the same vectors: each thread has tables of its own within a step."""

    @property
    def cbow(self) -> bool:
        """Whether a context tells its word."""
        return self.method == "cbow"

    @property
    def drawn(self) -> int:
        """S, words of noise for a block."""
        return self.shared or (8 if self.cbow else 24)

    def __post_init__(self) -> None:
        """Refuse threads without a core."""
        if self.threads and self.threads > (os.cpu_count() or 1):
            raise ValueError(f"--threads {self.threads}: this machine has {os.cpu_count()} cores; give at most as many")


def backbones(config: Config, facts: TextFacts) -> dict[str, Need]:
    """One table of words."""
    return {"text": Need("words")}


def reader(config: Config, store: TokenStore) -> WindowReader:
    """A row is a stretch of words."""
    return WindowReader(store, config.row, ahead=0)


class Word2Vec(ClosedForm):
    """The table that asks, the table that answers, and what is known of the words."""

    couples_rows = False
    keep: Tensor
    below: Tensor
    other: Tensor
    often: Tensor
    epoch_sum: Tensor

    def __init__(self, config: Config, facts: TextFacts, encoder: WordVectors) -> None:
        super().__init__()
        self.config, self.facts, self.encoder = config, facts, encoder
        self.inputs = encoder.module
        self.outputs = nn.Parameter(torch.zeros(len(encoder.words), encoder.width))
        counts = encoder.counts.numpy().astype(np.float64)
        counts[self.encoder.end] = 0  # it stands between sentences
        self.register_buffer("keep", torch.from_numpy(keep_chances(counts, config.sample)), persistent=False)
        noise = counts**POWER / (counts**POWER).sum()
        often = self.keep.numpy() * counts / counts.sum() + noise * config.drawn / BLOCK  # a word of text
        self.register_buffer("often", torch.from_numpy(often).float(), persistent=False)
        for name, table in zip(("below", "other"), alias(noise), strict=True):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.register_buffer("epoch_sum", torch.zeros(3, dtype=torch.float64))  # epoch, losses, words told

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """What is kept of each row, what each word looks at, and the noise of each block."""
        shown = self._room(batch, draw)
        self._show(shown)
        return {name: torch.from_numpy(shown[name]) for name in ("words", "spans", "kept", "noise")}

    def _room(self, batch: Batch, draw: Draw) -> dict[str, np.ndarray]:
        """The tokens of a batch, the states of its draws, and room for its views."""
        config, tokens = self.config, batch["tokens"].numpy()
        rows, size = tokens.shape
        real = np.arange(size) < batch["tokens_length"].numpy()[:, None]
        streams = torch.stack([draw.stream(name) for name in ("keep", "window", "noise")], 1)
        return {
            "tokens": np.where(real, tokens, self.encoder.end),
            "streams": streams.numpy().view(np.uint64),
            "words": np.zeros((rows, size), np.int32),
            "spans": np.zeros((rows, size, 2), np.int32),
            "kept": np.zeros(rows, np.int32),
            "noise": np.zeros((rows, -(-size // BLOCK), config.drawn), np.int32),
        }

    def _show(self, shown: dict[str, np.ndarray]) -> None:
        """Fill the views in; compiled."""
        words, spans, kept, noise = (shown[name] for name in ("words", "spans", "kept", "noise"))
        tokens, streams = shown["tokens"], shown["streams"]
        show(tokens, self.encoder.end, self.keep.numpy(), self.config.window, streams, words, spans, kept)
        draw_noise(self.below.numpy(), self.other.numpy(), streams[:, 2], kept, BLOCK, noise)

    def learn(self, batch: Batch, draw: Draw, rate: float) -> Losses:
        """A step of gradient descent for every block, the rows shared among threads."""
        loss, told = self._by_kernel(batch, draw, rate * CBOW if self.config.cbow else rate)
        if draw.epoch != int(self.epoch_sum[0]):
            self.epoch_sum[:] = torch.tensor([draw.epoch, 0, 0])
        self.epoch_sum[1:] += torch.tensor([loss, told], dtype=torch.float64)
        return {**self._losses(loss, told), "epoch_loss": self.epoch_sum[1] / self.epoch_sum[2].clamp(min=1)}

    def _by_kernel(self, batch: Batch, draw: Draw, rate: float) -> tuple[float, int]:
        """Sum of the losses, and of the words that were to be told; a rate of 0 leaves the tables alone."""
        threads = min(self.config.threads or torch.get_num_threads(), len(draw))
        shown = self._room(batch, draw)
        tables = self.inputs.weight.detach().numpy(), self.outputs.detach().numpy()
        apart = self.config.deterministic and threads > 1 and rate > 0
        pieces = threads if apart else min(PIECES * threads, len(draw))
        ends = [len(draw) * number // pieces for number in range(pieces + 1)]
        copies = [np.empty((pieces, *table.shape), np.float32) for table in tables] if apart else []

        def work(piece: int, start: int, stop: int) -> tuple[float, int]:
            own = tables
            if apart:
                own = copies[0][piece], copies[1][piece]
                own[0][:], own[1][:] = tables
            mine = {name: value[start:stop] for name, value in shown.items()}
            self._show(mine)
            words, spans, kept, noise = (mine[name] for name in ("words", "spans", "kept", "noise"))
            return learn(
                own[0], self.inputs.parts.numpy(), self.inputs.offsets.numpy(), own[1], words, spans, kept, noise,
                self.config.negatives / self.config.drawn, rate, self.config.cbow,
            )  # fmt: skip

        parts = zip(range(pieces), ends[:-1], ends[1:], strict=True)
        found = side_by_side([partial(work, *part) for part in parts], threads)
        if apart:
            together = self._together(rate, batch["tokens"].numel(), threads)
            for table, copy in zip(tables, copies, strict=True):  # rows of n-grams are behind: they are changed seldom
                over_rows(partial(add_changes, table, copy, together), len(table))
        return sum(loss for loss, _ in found), sum(told for _, told in found)

    def _together(self, rate: float, words: int, threads: int) -> np.ndarray:
        """(V,) float32: what the sum of the threads' changes of a row is multiplied with.

        Of a row that is seldom changed it is the sum. One that is changed often comes to rest in every thread, and the
        sum would carry it as far again beyond: with q what n changes leave of the way to go, T threads one after the
        other would leave q ** T, and the sum is cut to that.
        """
        q = np.exp(-rate / 4 * self.often.numpy() * words / threads)
        return ((1 - q**threads) / np.maximum(1 - q, 1e-9) / threads).astype(np.float32)

    def _losses(self, loss: float, told: int) -> Losses:
        """The mean, in float64."""
        return {
            "loss": torch.tensor(loss / max(told, 1), dtype=torch.float64),
            "count": torch.tensor(told),
            "trivial": torch.tensor((1 + self.config.negatives) * math.log(2)),
        }

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """The same losses: by the kernel, or where gradients are asked for, written out."""
        if views is None and not torch.is_grad_enabled():
            return self._losses(*self._by_kernel(batch, draw, 0.0))
        shown = views or self.views(batch, draw)
        rows = zip(*(shown[name].long() for name in ("words", "spans", "noise")), strict=True)
        losses, told = map(torch.stack, zip(*(self._row(*row) for row in rows), strict=True))  # (B, L)
        count = told.sum()
        return {**self._losses(0.0, 0), "loss": losses.sum() / count.clamp(min=1), "count": count}

    def _row(self, words: Tensor, spans: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(L,) the losses of each word of a row, and (L,) how many answers they are the sum of."""
        config, size = self.config, len(words)
        reach = torch.cat([torch.arange(-config.window, 0), torch.arange(1, config.window + 1)])
        near = torch.arange(size)[:, None] + reach  # (L, 2 window)
        seen = (near >= spans[:, :1]) & (near < spans[:, 1:])
        around = words[near.clamp(0, size - 1)]
        told = seen.sum(1)
        if config.cbow:
            asked = (self.inputs(around) * seen[..., None]).sum(1) / told.clamp(min=1)[:, None]  # (L, D)
            told = told.clamp(max=1)
            positive = told * F.softplus(-(asked * self.outputs[words]).sum(1))
        else:
            asked = self.inputs(words)
            positive = (seen * F.softplus(-torch.einsum("ld,lwd->lw", asked, self.outputs[around]))).sum(1)
        blocks = F.pad(asked, (0, 0, 0, len(noise) * BLOCK - size)).unflatten(0, (-1, BLOCK))
        against = F.softplus(blocks @ self.outputs[noise].mT).sum(2).flatten()[:size]
        return positive + config.negatives / config.drawn * told * against, told

    def encoders(self) -> Mapping[str, WordVectors]:
        """The table that asks."""
        return {"text": self.encoder}


def build(config: Config, facts: TextFacts, encoders: Mapping[str, WordVectors]) -> Word2Vec:
    """The two tables, the first of which is given."""
    return Word2Vec(config, facts, encoders["text"])


def recipe() -> Recipe:
    """The measured setting (docs/results.md)."""
    return Recipe(
        objective="word2vec",
        config=Config(),
        data=WordData(source="sample:prose"),
        backbone=WordBackbone(),
        optimizer=Pace(rate=0.035, warmup=0, schedule="linear"),
        budget=Budget(epochs=5),
    )


def tiny() -> Recipe:
    """The same code in a second."""
    return Recipe(
        objective="word2vec",
        config=Config(row=128, shared=8),
        data=WordData(source="sample:prose", vocabulary=500, min_count=1),
        backbone=WordBackbone(width=32),
        optimizer=Pace(batch=8, rate=0.05, warmup=0, schedule="linear"),
        budget=Budget(steps=30),
    )

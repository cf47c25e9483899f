"""What a language model is worth: bits per byte, perplexity and accuracy, beside n-grams and a compressor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.data.text import WindowReader
from selfsup.data.tokens import TokenStore
from selfsup.encoder import evaluating
from selfsup.eval.compression import xz_bits_per_byte
from selfsup.eval.ngram import NGram
from selfsup.objective import Objective
from selfsup.ops.language import bits_per_byte
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import fastest_device

Result = dict[str, Any]
BATCH = 64  # windows scored at once
MOST = 4_000_000  # held-out tokens that are scored


def total_loss(objective: Objective, reader: Reader, progress: Progress) -> tuple[float, int, int]:
    """Sum of nats, number of tokens, and number of right guesses over all windows of a reader."""
    rows = np.arange(len(reader))
    order = [(-1, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    nats, count, correct = 0.0, 0, 0.0
    device = fastest_device()
    objective.to(device)
    with evaluating(objective):
        for done, (batch, draw) in enumerate(batches(reader, order, 0), 1):
            losses = objective({name: value.to(device) for name, value in batch.items()}, draw.to(device))
            tokens = int(losses["count"])
            nats, count = nats + float(losses["loss"].double()) * tokens, count + tokens
            correct += float(losses["accuracy"]) * tokens
            progress.part("scoring held-out text", done, len(order))
    return nats, count, round(correct)


def evaluate_language(
    run: Run, train: TokenStore | None, held_out: TokenStore, name: str, progress: Progress
) -> list[Result]:
    """Held-out text under the run, its untrained network, a unigram, a 5-gram and xz, one result a number.

    Without the training text (None) there is nothing that the last three could have learned from: they are left out.
    All see the same windows, without context from before a window, but for xz, which sees the training text and
    everything up to the byte it writes. Of very long held-out text the first `MOST` tokens are scored.
    """
    held_out = held_out.cut(0, min(len(held_out), MOST))
    text = held_out.cut(1, len(held_out)).text()  # the first token is no target
    size = len(text.encode("utf-8"))
    reader = WindowReader(held_out, run.recipe.config.context)
    context = reader.context
    vocabulary = len(held_out.tokenizer)
    results: list[Result] = []

    def add(who: str, metric: str, value: float, chance: float) -> None:
        results.append(
            {
                "task": "language", "representation": who, "data": name, "split": "held-out", "step": run.step,
                "layer": "head", "labels": 0, "metric": metric, "mean": value, "chance": chance,
                "seed": run.recipe.seed,
            }
        )  # fmt: skip

    def score(who: str, nats: float, count: int, correct: int) -> None:
        uniform = math.log(vocabulary)
        add(who, "nats per token", nats / count, uniform)
        add(who, "perplexity", math.exp(nats / count), float(vocabulary))
        add(who, "bits per byte", bits_per_byte(nats, size), bits_per_byte(uniform * count, size))
        add(who, "next-token accuracy", correct / count, 1 / vocabulary)

    score("run", *total_loss(run.objective(), reader, progress))
    score("untrained", *total_loss(run.untrained(), reader, progress))
    if train is None:
        return results
    ids, past = held_out.read(0, len(held_out)), train.read(max(len(train) - 20_000_000, 0), len(train))
    for who, order in (("unigram", 1), ("5-gram", 5)):
        model = NGram.fit(past, vocabulary, order)
        nats, correct = model.score(ids, context)
        score(who, float(np.sum(nats)), len(nats), int(np.sum(correct)))
    add("xz", "bits per byte", xz_bits_per_byte(text.encode("utf-8"), train.text_end(4_000_000)), 8.0)
    return results

"""What a language model is worth: bits per byte, perplexity and accuracy, beside n-grams and a compressor."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.data.text import WindowReader
from selfsup.data.tokens import TokenStore
from selfsup.encoder import evaluating
from selfsup.eval.compression import xz_bits_per_byte
from selfsup.eval.ngram import NGram
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import ERROR, Gain
from selfsup.objective import Objective
from selfsup.ops.language import bits_per_byte
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import fastest_device

BATCH = 64  # windows scored at once
MOST = 4_000_000  # held-out tokens that are scored


def window_losses(objective: Objective, reader: Reader, progress: Progress) -> tuple[np.ndarray, int, int]:
    """Sum of nats of each window of a reader (N,), and over all of them number of tokens and of right guesses."""
    rows = np.arange(len(reader))
    order = [(-1, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    nats, count, correct = [], 0, 0.0
    device = fastest_device()
    objective.to(device)
    with evaluating(objective):
        for done, (batch, draw) in enumerate(batches(reader, order, 0), 1):
            losses = objective({name: value.to(device) for name, value in batch.items()}, draw.to(device))
            tokens = int(losses["count"])
            terms = (batch["tokens_length"] - 1).clamp(min=1)  # each row's loss is a mean over so many
            nats.append(losses["example_loss"].double().cpu() * terms)
            count, correct = count + tokens, correct + float(losses["accuracy"]) * tokens
            progress.part("scoring held-out text", done, len(order))
    return torch.cat(nats).numpy(), count, round(correct)


def evaluate_language(
    run: Run, train: TokenStore | None, held_out: TokenStore, name: str, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """Held-out text under the run, its untrained network, a unigram, a 5-gram and xz, one result a number.

    The gain is in bits per byte, over the best of the others; its interval comes from the differences of the windows,
    but for xz, which knows no windows and is compared as a whole.

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
    sums: dict[str, np.ndarray] = {}  # (windows,) nats, by representation

    def add(who: str, metric: str, value: float, chance: float) -> None:
        line = result(run, "language", who, metric, value, chance, name, "held-out")
        results.append({**line, "layer": "head"})

    def score(who: str, nats: np.ndarray, count: int, correct: int) -> None:
        sums[who], uniform, total = nats, math.log(vocabulary), float(nats.sum())
        add(who, "nats per token", total / count, uniform)
        add(who, "perplexity", math.exp(total / count), float(vocabulary))
        add(who, "bits per byte", bits_per_byte(total, size), bits_per_byte(uniform * count, size))
        add(who, "next-token accuracy", correct / count, 1 / vocabulary)

    score("run", *window_losses(run.objective(), reader, progress))
    untrained = run.untrained()
    if run.recipe.backbone.init:
        score("start", *window_losses(untrained, reader, progress))
    else:
        score("untrained", *window_losses(untrained, reader, progress))
    if train is None:
        return results, [saved(sums, size)]
    ids, past = held_out.read(0, len(held_out)), train.read(max(len(train) - 20_000_000, 0), len(train))
    for who, order in (("unigram", 1), ("5-gram", 5)):
        model = NGram.fit(past, vocabulary, order)
        nats, correct = model.score(ids, context)
        score(who, np.add.reduceat(nats, np.arange(0, len(nats), context)), len(nats), int(np.sum(correct)))
    packed = xz_bits_per_byte(text.encode("utf-8"), train.text_end(4_000_000))
    add("xz", "bits per byte", packed, 8.0)
    found = saved(sums, size)
    ours = bits_per_byte(float(sums["run"].sum()), size)
    if packed < ours + found.mean:
        found = Gain(found.where, "xz", packed - ours, found.half, found.unit)
    return results, [found]


def saved(sums: Mapping[str, np.ndarray], size: int) -> Gain:
    """Bits per byte that the run saves over the best of the others.

    Args:
        sums: (windows,) nats of each window, by representation; `run` is among them.
        size: bytes of the text.
    """
    others = {who: nats for who, nats in sums.items() if who != "run"}
    over = min(others, key=lambda who: others[who].sum())
    difference = others[over] - sums["run"]  # (windows,)
    scale = 1 / math.log(2) / size
    spread = float(difference.std(ddof=1)) * math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    half = stats.norm.ppf(1 - ERROR / 2 / len(others)) * spread * scale
    return Gain("on held-out text", over, float(difference.sum()) * scale, half, "bits per byte saved")

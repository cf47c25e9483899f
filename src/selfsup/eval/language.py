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
from selfsup.data.token_store import TokenStore
from selfsup.encoder import evaluating
from selfsup.eval.compression import TRAIN_LIMIT, xz_bits_per_byte
from selfsup.eval.hidden import Hidden
from selfsup.eval.ngram import NGram
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import ERROR, Gain
from selfsup.fusion import part_of
from selfsup.objective import Objective
from selfsup.ops.language import bits_per_byte
from selfsup.predictors.filler import Filler
from selfsup.predictors.generator import Generator
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import fastest_device

BATCH = 64  # rows scored at once
MOST = 4_000_000  # held-out tokens that are scored
PAST = 20_000_000  # tokens of the training text that are counted
# What the mean of the nats, its exponential and the share of right guesses are called.
CAUSAL = ("nats per token", "perplexity", "next-token accuracy")
MASKED = ("nats per masked token", "pseudo-perplexity", "masked accuracy")


def window_losses(objective: Objective, reader: Reader, progress: Progress) -> tuple[np.ndarray, int, int]:
    """Sum of nats of each row of a reader (N,), and over all of them number of tokens told and of right guesses."""
    rows = np.arange(len(reader))
    order = [(-1, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    nats, count, correct = [], 0, 0.0
    device = fastest_device()
    objective.to(device)
    with evaluating(objective):
        for done, (raw, drawn) in enumerate(batches(reader, order, 0), 1):
            batch, draw = {name: value.to(device) for name, value in raw.items()}, drawn.to(device)
            views = objective.views(batch, draw)
            losses = objective(batch, draw, views)
            terms = views["counted"].sum(1)  # each row's loss is a mean over so many
            tokens = int(terms.sum())
            nats.append((losses["example_loss"].double() * terms).cpu())
            count, correct = count + tokens, correct + float(losses["accuracy"]) * tokens
            progress.part("scoring held-out text", done, len(order))
    return torch.cat(nats).numpy(), count, round(correct)


def evaluate_language(
    run: Run, train: TokenStore | None, held_out: TokenStore, name: str, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """Held-out text under the run, its untrained network, a unigram, a 5-gram and xz, one result a number.

    The gain is in bits per byte, over the best of the others; its interval comes from the differences of the rows,
    but for xz, which knows no rows and is compared as a whole.

    Without the training text (None) there is nothing that the last three could have learned from: they are left out.
    All see the same rows, without context from before a row, but for xz, which sees the end of the training text
    and everything up to the byte it writes. Of very long held-out text the first `MOST` tokens are scored, of hidden
    words those of `hidden.MOST` rows evenly spread.

    A masked model is asked for the same hidden tokens every time; bits are of these tokens, for each byte that they
    stand for, comparable among tokenizers where the same share is hidden. The n-grams see all that stands to the left
    of a token, also what is hidden from the network, and nothing to the right. A compressor hides nothing: no xz.
    """
    held_out = held_out.cut(0, min(len(held_out), MOST))
    objective, before = run.objective(), run.untrained()
    causal = any(predictor.kind == Generator.kind for predictor in objective.predictors())
    now, then = (part_of(run.recipe, one, Generator.kind if causal else Filler.kind) for one in (objective, before))
    objective, before, reader = now.objective, then.objective, now.reader(held_out)
    hidden = None if causal else Hidden.of(before, reader)
    text = held_out.cut(1, len(held_out)).text().encode("utf-8") if causal else b""  # the first token is no target
    size = hidden.size(held_out.tokenizer) if hidden else len(text)
    vocabulary = len(held_out.tokenizer)
    mean_name, perplexity_name, accuracy_name = CAUSAL if causal else MASKED
    results: list[Result] = []
    sums: dict[str, np.ndarray] = {}  # (rows,) nats, by representation

    def add(who: str, metric: str, value: float, chance: float) -> None:
        line = result(run, "language", who, metric, value, chance, name, "held-out")
        results.append({**line, "layer": "head"})

    def score(who: str, nats: np.ndarray, count: int, correct: int) -> None:
        sums[who], uniform, total = nats, math.log(vocabulary), float(nats.sum())
        add(who, mean_name, total / count, uniform)
        add(who, perplexity_name, math.exp(total / count), float(vocabulary))
        add(who, "bits per byte", bits_per_byte(total, size), bits_per_byte(uniform * count, size))
        add(who, accuracy_name, correct / count, 1 / vocabulary)

    for who, one in (("run", objective), ("start" if run.recipe.backbone.init else "untrained", before)):
        score(who, *(_fills(one, hidden, progress) if hidden else window_losses(one, reader, progress)))
    if train is None:
        return results, [saved(sums, size)]
    past = train.read(max(len(train) - PAST, 0), len(train))
    for who, order in (("unigram", 1), ("5-gram", 5)):
        model = NGram.fit(past, vocabulary, order)
        score(who, *(hidden.told_by(model) if hidden else _told_by(model, held_out, reader)))
    found = saved(sums, size)
    if causal:
        packed = xz_bits_per_byte(text, train.text_end(TRAIN_LIMIT))
        add("xz", "bits per byte", packed, 8.0)
        ours = bits_per_byte(float(sums["run"].sum()), size)
        if packed < ours + found.mean:
            found = Gain(found.where, "xz", packed - ours, found.half, found.unit)
    return results, [found]


def _fills(objective: Objective, hidden: Hidden, progress: Progress) -> tuple[np.ndarray, int, int]:
    """As `window_losses`, of hidden tokens, whatever else an objective learns."""
    objective.to(fastest_device())
    filler = next(predictor for predictor in objective.predictors() if isinstance(predictor, Filler))
    return hidden.told_by_network(filler.network, progress)


def _told_by(model: NGram, held_out: TokenStore, reader: Reader) -> tuple[np.ndarray, int, int]:
    """As `window_losses`, by an n-gram model in the windows of a causal network."""
    assert isinstance(reader, WindowReader)
    nats, correct = model.score(held_out.read(0, len(held_out)), reader.context)
    return np.add.reduceat(nats, np.arange(0, len(nats), reader.context)), len(nats), int(np.sum(correct))


def saved(sums: Mapping[str, np.ndarray], size: int) -> Gain:
    """Bits per byte that the run saves over the best of the others.

    Args:
        sums: (rows,) nats of each row, by representation; `run` is among them.
        size: bytes of the text.
    """
    others = {who: nats for who, nats in sums.items() if who != "run"}
    over = min(others, key=lambda who: others[who].sum())
    difference = others[over] - sums["run"]  # (rows,)
    scale = 1 / math.log(2) / size
    spread = float(difference.std(ddof=1)) * math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    half = stats.norm.ppf(1 - ERROR / 2 / len(others)) * spread * scale
    return Gain("on held-out text", over, float(difference.sum()) * scale, half, "bits per byte saved")

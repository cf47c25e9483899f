"""Text embeddings by contrast beside sentence-transformers' Trainer: same network, first weights, pairs and batch.

    python benchmarks/contrastive_text.py [--quick] [--data FOLDER] [--what train cached]

`train`: batches of 64 random pairs by `MultipleNegativesRankingLoss`, of sentences that mean the same and of halves of
longer ones, 3 to 60 words; the peer's Trainer has the number of loader processes that is fastest. `cached`: batches of
4,096 by `CachedMultipleNegativesRankingLoss`, with mini-batches of as many tokens as selfsup's chunks and of 32, 64
and 128 texts, whichever is fastest; beside it selfsup's direct batch, and the memory of a process of its own for each.
AdamW, in float32 and without dropout, so that both learn the same. Quality is Spearman's correlation on STS-B's
development part after the steps of a round. --data is a folder with `sts` and `sentence_classification`; without it,
sentences of Python's own documentation, and no quality.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from beside_trainer import Clock
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from side_by_side import Side, arguments, highest, in_turn, publish, say

import selfsup
from selfsup.construct import construct
from selfsup.data.samples import load_sample
from selfsup.data.tokenizer import train_tokenizer
from selfsup.loop import Training
from selfsup.objective import load_objective
from selfsup.ops.contrastive import BLOCK
from selfsup.planning import make_plan
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve
from selfsup.runtime import Runtime
from selfsup.sentence_files import write_sentences
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import SIZES

VOCABULARY, CONTEXT, SKIPPED = 8192, 128, 3
BATCH, LARGE = 64, 4096
RATE, DECAY, BETAS, CLIP = 5e-4, 0.01, (0.9, 0.999), 1.0
CHUNK = 2048  # tokens: about those of 64 pairs
TRIED = (32, 64, 128)  # texts in a mini-batch of the peer

Pair = tuple[str, str]


def _halves(sentence: str) -> Pair:
    words = sentence.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def pairs_of(data: str | None) -> list[Pair]:
    """Pairs of sentences, in any order."""
    found: list[Pair] = []
    if data is None:
        texts = [str(text) for text in load_sample("prose")["train"]["text"]]
        sentences = [part for text in texts for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", text)]
        found = [_halves(sentence) for sentence in sentences if 6 <= len(sentence.split()) <= 60]
    else:
        for file in sorted(Path(data).rglob("train.csv")):
            with open(file, encoding="utf-8", newline="") as lines:
                rows = list(csv.DictReader(lines))
            if "sts" in file.parts:
                found += [(row["sentence1"], row["sentence2"]) for row in rows]
            elif "subj" in file.parts:
                found += [_halves(row["text"]) for row in rows]
    random.Random(0).shuffle(found)
    return found


def development(data: str | None) -> tuple[list[str], list[str], list[float]]:
    """STS-B's development part."""
    files = [] if data is None else [file for file in Path(data).rglob("dev.csv") if "stsb" in file.parts]
    rows = []
    for file in files:
        with open(file, encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
    return [r["sentence1"] for r in rows], [r["sentence2"] for r in rows], [float(r["score"]) for r in rows]


@dataclass
class Work:
    """What both sides start from.

    Attributes:
        folder: with the pairs, and a network of fresh weights that both load.
        pairs: the pairs.
        judged: pairs with scores.
    """

    folder: Path
    pairs: list[Pair]
    judged: tuple[list[str], list[str], list[float]]

    @classmethod
    def make(cls, folder: Path, data: str | None, size: str, most: int | None) -> Work:
        """Write pairs, network and tokenizer."""
        pairs = pairs_of(data)[:most]
        lines = [json.dumps({"query": a, "positive": b}) + "\n" for a, b in pairs]
        (folder / "pairs").mkdir()
        (folder / "pairs" / "train.jsonl").write_text("".join(lines))
        (folder / "pairs" / "valid.jsonl").write_text("".join(lines[:2]))  # nothing else is held out
        torch.manual_seed(0)
        tokenizer = train_tokenizer("bpe", VOCABULARY, [text for pair in pairs for text in pair])
        encoder = TextEncoder.create("encoder", tokenizer, CONTEXT, SIZES[size])
        encoder.save(folder / "start")
        write_sentences(TextEncoder.load(folder / "start"), folder / "start")
        return cls(folder, pairs, development(data))

    def training(self, batch: int, steps: int, chunk: int | None, seed: int = 0) -> Training:
        """A run of selfsup about to begin."""
        recipe = selfsup.recipe(
            "contrastive_text", data=str(self.folder / "pairs"), init=str(self.folder / "start"), context=CONTEXT,
            batch=batch, steps=steps, chunk=chunk, seed=seed, optimizer="adamw", rate=RATE, decay=DECAY, betas=BETAS,
            clip=CLIP, schedule="linear", tokenizer=str(self.folder / "start"), cache=str(self.folder / "cache"),
            precision="float32",
        )  # fmt: skip
        prepared = prepare(recipe.data, None, False, Progress(False))
        recipe = resolve(recipe, prepared, torch.device("cpu"), "float32")
        objective = construct(recipe, prepared.facts, None, None)
        reader = load_objective("contrastive_text").reader(recipe.config, prepared.train)
        return Training(objective, reader, recipe, Runtime("float32"))

    def quality(self, first: np.ndarray, second: np.ndarray) -> float | None:
        """Spearman's correlation of cosines with the scores."""
        if not self.judged[2]:
            return None
        cosines = F.cosine_similarity(torch.from_numpy(first), torch.from_numpy(second))
        return round(float(spearmanr(cosines, self.judged[2]).statistic), 4)


def ours(work: Work, batch: int, steps: int, chunk: int | None, seed: int = 0) -> tuple[list[float], float | None]:
    """Selfsup's loop: when each step ended, and the quality."""
    training = work.training(batch, steps, chunk, seed)
    plan, ends = make_plan(training.recipe.optimizer, 0, steps), []
    for number, parts in enumerate(training.read(0, steps)):
        training.step(number, parts, plan)
        ends.append(time.perf_counter())
    encoder = next(iter(training.objective.encoders().values()))
    return ends, work.quality(*(encoder.encode(texts).numpy() for texts in work.judged[:2]))


def theirs(
    work: Work, batch: int, steps: int, workers: int = 0, seed: int = 0, mini: dict[str, int] | None = None
) -> tuple[list[float], float | None]:
    """The Trainer of sentence-transformers, with the cached loss where it is given a mini-batch."""
    network = SentenceTransformer(str(work.folder / "start"), device="cpu")
    rows = Dataset.from_dict({"anchor": [a for a, _ in work.pairs], "positive": [b for _, b in work.pairs]})
    loss = MultipleNegativesRankingLoss(network)
    if mini is not None:
        loss = CachedMultipleNegativesRankingLoss(network, **mini)
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        settings = SentenceTransformerTrainingArguments(
            scratch, max_steps=steps, per_device_train_batch_size=batch, learning_rate=RATE, weight_decay=DECAY,
            adam_beta1=BETAS[0], adam_beta2=BETAS[1], max_grad_norm=CLIP, warmup_steps=max(steps // 10, 1),
            lr_scheduler_type="linear", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            dataloader_num_workers=workers, dataloader_drop_last=True, seed=seed, use_cpu=True,
        )  # fmt: skip
        worker = SentenceTransformerTrainer(
            model=network, args=settings, train_dataset=rows, loss=loss, callbacks=[clock]
        )
        with redirect_stdout(sys.stderr):
            worker.train()
    vectors = [np.asarray(network.encode(texts, show_progress_bar=False)) for texts in work.judged[:2]]
    return clock.ends, work.quality(*vectors)


def padding(work: Work) -> float:
    """Tokens that pass the peer's network for each that is in a text: both columns of a batch have one length."""
    tokenizer = TextEncoder.load(work.folder / "start").tokenizer
    lengths = [[len(ids) for ids in tokenizer([p[side] for p in work.pairs])["input_ids"]] for side in (0, 1)]
    both = np.minimum(np.array(lengths).T, CONTEXT)[: len(work.pairs) // BATCH * BATCH].reshape(-1, 2 * BATCH)
    return float((both.max(1) * 2 * BATCH).sum() / both.sum())


SETTINGS = {
    "optimizer": "adamw", "rate": RATE, "decay": DECAY, "betas": BETAS, "clip": CLIP, "precision": "float32",
    "context": CONTEXT, "vocabulary": VOCABULARY,
}  # fmt: skip


def train(work: Work, size: str, steps: int, rounds: int) -> None:
    """Batches of 64."""
    tried = {}
    for workers in (0, 1, 2):
        ends, _ = theirs(work, BATCH, SKIPPED + 10, workers)
        tried[workers] = float(np.median(np.diff(ends)[SKIPPED - 1 :]))
        say(f"sentence-transformers with {workers} workers: {1000 * tried[workers]:.0f} ms a step")
    workers = min(tried, key=lambda number: tried[number])
    quality: tuple[list[Any], list[Any]] = ([], [])

    def side(number: int) -> Side:
        seed = -1  # the first round only warms up

        def seconds() -> float:
            nonlocal seed
            count = steps if seed >= 0 else SKIPPED + 5
            given = max(seed, 0)
            work_of = (
                lambda: ours(work, BATCH, count, None, given),
                lambda: theirs(work, BATCH, count, workers, given),
            )
            ends, found = work_of[number]()
            if seed >= 0:
                quality[number].append(found)
            seed += 1
            return ends[-1] - ends[SKIPPED - 1]

        return Side(seconds)

    sides = side(0), side(1)
    times = in_turn(rounds, *sides)
    for number, one in enumerate(sides):
        speed = [(steps - SKIPPED) * BATCH / seconds for seconds in times[number]]
        one.about |= {
            "pairs_per_s": round(statistics.median(speed)), "stsb_dev_spearman": quality[number], "batch": BATCH,
            "steps": steps, "size": size, **SETTINGS,
        }  # fmt: skip
    sides[1].about |= {"workers": workers, "padding": round(padding(work), 2)}
    differs = {"padding": "texts of about equal length pass the network together in selfsup"}
    publish("contrastive_text", "train", "sentence-transformers", times, sides, differs, ("sentence-transformers",))


def memory(folder: Path, pairs: list[Pair], batch: int, chunk: int | None) -> float:
    """Most memory of a process of its own in two steps, above what it had with everything built, in MB."""
    training = Work(folder, pairs, ([], [], [])).training(batch, 2, chunk)
    steps = list(training.read(0, 2))
    plan = make_plan(training.recipe.optimizer, 0, 2)
    with highest() as most:
        for number, parts in enumerate(steps):
            training.step(number, parts, plan)
    return most()


def cached(work: Work, size: str, batch: int, rounds: int) -> None:
    """Batches of 4,096 in chunks."""
    tried: dict[str, tuple[float, dict[str, int]]] = {}
    minis = [{"mini_batch_size": texts} for texts in TRIED] + [{"mini_batch_num_tokens": CHUNK}]
    for mini in minis:
        ends, _ = theirs(work, batch, 2, mini=mini)
        tried[str(mini)] = ends[1] - ends[0], mini
        say(f"sentence-transformers, {mini}: {ends[1] - ends[0]:.1f} s a step")
    best = min(tried.values(), key=lambda one: one[0])[1]
    count = 2  # the first warms up

    def side(work_of: Any) -> Side:  # noqa: ANN401 - a call that gives when each step ended
        def seconds() -> float:
            ends, _ = work_of()
            return ends[-1] - ends[0]

        return Side(seconds)

    sides = (
        side(lambda: ours(work, batch, count, CHUNK)),
        side(lambda: theirs(work, batch, count, mini=best)),
        side(lambda: ours(work, batch, count, None)),
    )
    chunked, peer, direct = in_turn(rounds, *sides)
    about = {"batch": batch, "size": size, **SETTINGS}
    used: dict[str, dict[str, float]] = {}
    for kept in ("given back", "kept"):  # what is freed, by glibc: it keeps small pieces, and larger ones in between
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "500000"} if kept == "given back" else {}
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
            for name, rows, chunk in (("chunked", batch, CHUNK), ("direct", batch, None), ("batch of 64", BATCH, None)):
                found = alone.submit(memory, work.folder, work.pairs, rows, chunk).result()
                used.setdefault(kept, {})[name] = round(found, 1)
        os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    width = SIZES[size].width
    allowed = {
        "raw batch": round(batch * 2 * (CONTEXT * 8 * 2 + 24) / 2**20, 1),  # tokens, as read and between their marks
        "vectors and their gradient": round(2 * batch * 2 * width * 4 / 2**20, 1),
        "a block of logits": BLOCK[0] * 4 / 2**20,
    }
    sides[0].about |= about | {
        "seconds_a_step": round(statistics.median(chunked) / (count - 1), 2), "chunk_tokens": CHUNK,
        "over_direct": round(statistics.median([a / b for a, b in zip(chunked, direct, strict=True)]), 3),
        "memory_mb": used, "allowed_mb": allowed,
    }  # fmt: skip
    sides[1].about |= about | {"seconds_a_step": round(statistics.median(peer) / (count - 1), 2), **best}
    differs = {"chunks": "of texts of about equal length in selfsup"}
    publish(
        "contrastive_text", "cached", "sentence-transformers", [chunked, peer], sides[:2], differs,
        ("sentence-transformers",),
    )  # fmt: skip


def main() -> None:
    """Both cases in turn."""
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), help="of the network; tiny for train, nano for cached")
    given = parser.parse_args()
    for what in given.what or ("train", "cached"):
        with tempfile.TemporaryDirectory() as folder:
            size = given.size or ("nano" if given.quick or what == "cached" else "tiny")
            work = Work.make(Path(folder), given.data, size, 1024 if given.quick else None)
            if what == "train":
                train(work, size, 15 if given.quick else 60, 1 if given.quick else 3)
            else:
                cached(work, size, 512 if given.quick else LARGE, 1 if given.quick else 3)


if __name__ == "__main__":
    main()

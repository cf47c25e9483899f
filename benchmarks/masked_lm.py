"""A small masked language model beside transformers' Trainer as its run_mlm.py uses it.

    python benchmarks/masked_lm.py [--quick] [--data novels_en] [--what 30522 16k]

4 layers, 4 heads, width 256, windows of 128 tokens, 15 % hidden, 32 in a batch; the same network, first weights, AdamW
and schedule on both sides, from scratch in every round with a seed of its own. `what` is the size of the vocabulary.
Both are scored on the same hidden words of the held-out part. Memory is what a process of its own needs above the
network. Without --data, Python's own documentation, whose vocabulary is as large as it can be.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import torch
from beside_trainer import Clock, Rows, Setting, Text, best_workers, train
from side_by_side import Side, arguments, highest, in_turn, publish
from transformers import DataCollatorForLanguageModeling, PreTrainedModel

from selfsup.data.tokenizer import Template
from selfsup.planning import make_plan
from selfsup.runtime import Runtime

CONTEXT, SKIPPED = 128, 5  # the first steps of a round, in which memory is taken and kernels are chosen, do not count
SIZE = {"layers": 4, "heads": 4, "width": 256, "context": CONTEXT, "rows": "windows", "mask_rate": 0.15}
MEASURED = 8  # steps in which memory is watched
WHAT = {"30522": 30522, "16k": 16384}
SETTING = Setting(batch=32, rate=1e-3, decay=0.01, betas=(0.9, 0.999), clip=1.0, warmup=20)


def prepared(source: str, vocabulary: int, quick: bool) -> Text:
    """The text under a vocabulary."""
    size = {**SIZE, "layers": 2, "width": 64} if quick else SIZE
    batch = 4 if quick else SETTING.batch
    return Text("masked_lm", source, Runtime("float32"), batch=batch, vocabulary=vocabulary, **size)


def setting_of(text: Text) -> Setting:
    """How both sides train on a text."""
    return replace(SETTING, batch=text.shared["batch"])


def ours(text: Text, steps: int, seed: int) -> tuple[list[float], PreTrainedModel]:
    """Selfsup's loop: when each step ended, and the network."""
    given = {name: value for name, value in asdict(SETTING).items() if name not in ("warmup", "batch")}
    settings = {**given, "optimizer": "adamw", "warmup": min(SETTING.warmup / steps, 1.0), "steps": steps}
    training, recipe = text.training(seed, **settings)
    plan, ends = make_plan(recipe.optimizer, 0, steps), []
    for number, parts in enumerate(training.read(0, steps)):
        training.step(number, parts, plan)
        ends.append(time.perf_counter())
    return ends, training.objective.network


class Theirs:
    """The text in rows as run_mlm groups it, each between the marks that it has in selfsup, and the Trainer."""

    def __init__(self, text: Text) -> None:
        self.text = text
        tokenizer = text.train.tokenizer
        marks = Template.for_encoder(tokenizer)
        room = CONTEXT - len(marks.start) - len(marks.stop)
        ids = text.train.read(0, len(text.train)).astype(np.int64)
        rows = torch.from_numpy(ids[: len(ids) // room * room].reshape(-1, room))
        start, stop = (torch.tensor(part).expand(len(rows), -1) for part in (marks.start, marks.stop))
        rows = torch.cat([start, rows, stop], 1)
        special = torch.isin(rows, torch.tensor(tokenizer.all_special_ids)).long()
        self.rows = Rows(rows, special_tokens_mask=special)
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=SIZE["mask_rate"])

    def __call__(self, steps: int, seed: int, workers: int = 0) -> tuple[list[float], PreTrainedModel]:
        """As `ours`."""
        network, clock = self.text.training(seed, steps=1)[0].objective.network, Clock()
        train(network, self.rows, clock, setting_of(self.text), steps, workers, seed, self.collator)
        return clock.ends, network


def memory(who: str, source: str, vocabulary: int, quick: bool) -> float:
    """Most memory of a process of its own during some steps, above what it had with the network built, in MB."""
    text = prepared(source, vocabulary, quick)
    theirs = Theirs(text)  # on both sides: the rows are no part of what is compared
    network = text.training(steps=1)[0].objective
    with highest() as most:
        ours(text, MEASURED, 0) if who == "ours" else theirs(MEASURED, 0)
    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters()) / 2**20
    return most() - weights  # the run builds a network of its own


def compare(what: str, source: str, quick: bool) -> None:
    """Speed, quality and memory for one vocabulary."""
    text = prepared(source, WHAT[what], quick)
    theirs = Theirs(text)
    steps, rounds = (10 + SKIPPED, 1) if quick else (120, 3)
    setting = setting_of(text)
    tokens = setting.batch * CONTEXT

    def speed(workers: int) -> float:
        return tokens / float(np.median(np.diff(theirs(SKIPPED + 10, 0, workers)[0])[SKIPPED - 1 :]))

    workers = best_workers(speed)
    nats: tuple[list[float], list[float]] = ([], [])

    def side(number: int) -> Side:
        begun = -1  # the first round only warms up

        def seconds() -> float:
            nonlocal begun
            count, seed = steps if begun >= 0 else SKIPPED + 5, max(begun, 0)
            ends, network = ours(text, count, seed) if number == 0 else theirs(count, seed, workers)
            if begun >= 0:
                nats[number].append(round(text.nats(network), 4))
            begun += 1
            return ends[-1] - ends[SKIPPED - 1]

        return Side(seconds)

    sides = side(0), side(1)
    times = in_turn(rounds, *sides)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as alone:
        for number, who in enumerate(("ours", "theirs")):
            used = alone.submit(memory, who, source, WHAT[what], quick).result()
            speeds = [tokens * (steps - SKIPPED) / seconds for seconds in times[number]]
            sides[number].about |= {
                "tokens_per_s": round(statistics.median(speeds)), "held_out_nats": nats[number],
                "memory_above_network_mb": round(used), "kinds": len(text.train.tokenizer), "steps": steps,
                "context": CONTEXT, "optimizer": "adamw", "precision": "float32", **asdict(setting),
            }  # fmt: skip
    sides[1].about["workers"] = workers
    differs = {
        "windows": "fixed pieces of the text in the Trainer, a new tiling in every epoch in selfsup",
        "hidden": "15 % of the tokens of each row in selfsup, each token by chance in the Trainer",
    }
    publish("masked_lm", what, "trainer", times, sides, differs, ("transformers",))


def main() -> None:
    """All cases in turn."""
    given = arguments(__doc__).parse_args()
    for what in given.what or (["16k"] if given.quick else WHAT):
        compare(what, given.data or "sample:prose", given.quick)


if __name__ == "__main__":
    main()

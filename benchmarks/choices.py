"""What each choice of the loop is worth: the same steps with it and without it, in turn.

    python benchmarks/choices.py [--quick] [--data cifar10] [--what "views ahead" "channels last" ...]

`ratio` over 1: the choice pays. Pictures: SimCLR on the `nano` network, batch 256, and where it says so a ResNet-18;
text: the GPT of benchmarks/causal_lm.py. `compile` also counts the seconds that compiling takes, as the number of
steps after which it has paid for itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import timm
import torch
from side_by_side import Side, arguments, in_turn, publish, say
from torch import nn

import selfsup
from selfsup.construct import construct
from selfsup.data.draw import Draw
from selfsup.data.reader import Batch
from selfsup.loop import Training
from selfsup.objective import load_objective
from selfsup.planning import make_plan
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve
from selfsup.runtime import Runtime

Parts = list[tuple[Batch, Draw]]
PICTURES = {"size": "nano", "batch": 256, "optimizer": "adamw"}
WIDE = {"network": "resnet18", "batch": 64, "optimizer": "adamw"}
TEXT = {"layers": 4, "heads": 4, "width": 128, "context": 64, "tokenizer": "char", "batch": 12, "optimizer": "adamw"}


def start(name: str, data: str, settings: dict[str, object], given: list[str] | None = None) -> Training:
    """A run about to begin, on a source or on texts that are given."""
    recipe = selfsup.recipe(name, data=data, steps=1, **settings)
    runtime = Runtime(recipe.precision, convolutions=name == "simclr")
    prepared = prepare(recipe.data, given, runtime.device.type == "cuda", Progress(False))
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    tokenizer = getattr(getattr(prepared.train, "tokenizer", None), "name_or_path", None)
    objective = construct(recipe, prepared.facts, tokenizer, None)
    return Training(objective, load_objective(name).reader(recipe.config, prepared.train), recipe, runtime)


class Steps:
    """So many steps of a run at a flat rate; a round goes on where the last one ended."""

    def __init__(self, training: Training, steps: int, stream: Iterator[Parts] | None = None) -> None:
        self.training, self.steps = training, steps
        self.plan = replace(make_plan(training.recipe.optimizer, 0, 10**6), warmup=1)
        self.stream = stream or training.read(0, 10**6)
        self.done = 0

    def __call__(self) -> float:
        """Do a round; its seconds."""
        began = time.perf_counter()
        for _ in range(self.steps):
            self.training.step(self.done, next(self.stream), self.plan)
            self.done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began


def compare(
    what: str, with_it: Callable[[], float], without: Callable[[], float], rounds: int, **about: object
) -> None:
    """Measure and publish one choice."""
    sides = Side(with_it, dict(about)), Side(without)
    seconds = in_turn(rounds, *sides)
    for side, found in zip(sides, seconds, strict=True):
        side.about["seconds"] = round(statistics.median(found), 4)
    publish("choices", what, "without it", seconds, sides, {}, packages=("timm",))


def views_ahead(data: str, steps: int, rounds: int) -> None:
    """Views of the next step made in a thread while the network is busy with this one."""
    ahead, plain = (start("simclr", data, PICTURES) for _ in range(2))
    objective, pool, source = ahead.objective, ThreadPoolExecutor(1), ahead.read(0, 10**6)

    def prepare_next() -> tuple[Batch, Draw, Batch]:
        [(batch, draw)] = next(source)
        batch, draw = ahead.runtime.move(batch), draw.to(ahead.runtime.device)
        return batch, draw, objective.views(batch, draw)

    def stream() -> Iterator[Parts]:
        waiting = pool.submit(prepare_next)
        while True:
            batch, draw, views = waiting.result()
            waiting = pool.submit(prepare_next)
            ahead.steps.wrapped = lambda batch, draw, views=views: objective(batch, draw, views)
            yield [(batch, draw)]

    compare("views ahead", Steps(ahead, steps, stream()), Steps(plain, steps), rounds)
    pool.shutdown(cancel_futures=True)


def workers(data: str, steps: int, rounds: int) -> None:
    """Batches read ahead by processes; the store is mapped memory."""
    for count in (1, 2):
        ahead, plain = (start("simclr", data, {**PICTURES, "workers": n}) for n in (count, 0))
        compare(f"{count} workers", Steps(ahead, steps), Steps(plain, steps), rounds)


def channels_last(data: str, steps: int, rounds: int) -> None:
    """Memory format of the network."""
    ours, plain = (start("simclr", data, PICTURES) for _ in range(2))
    plain.objective.backbone.to(memory_format=torch.contiguous_format)
    compare("channels last", Steps(ours, steps), Steps(plain, steps), rounds)


def bfloat16(data: str, steps: int, rounds: int) -> None:
    """Precision of the network's arithmetic, for pictures and for text."""
    for name, source, settings in (("simclr", data, PICTURES), ("causal_lm", "sample:prose", TEXT)):
        low, full = (start(name, source, {**settings, "precision": which}) for which in ("bfloat16", "float32"))
        compare(f"bfloat16, {name}", Steps(low, steps), Steps(full, steps), rounds)


def fused(data: str, steps: int, rounds: int) -> None:
    """The steps of AdamW alone: fused, beside one operation a tensor and beside foreach."""
    for label, training in (
        ("ResNet-18", start("simclr", data, WIDE)),
        ("GPT", start("causal_lm", "sample:prose", TEXT)),
    ):
        weights = training.steps.weights

        def seconds(kind: str, weights: list[nn.Parameter] = weights) -> Callable[[], float]:
            copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
            for copy in copies:
                copy.grad = torch.randn_like(copy)
            chosen = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False}}[kind]
            optimizer = torch.optim.AdamW(copies, 1e-3, **chosen)

            def go() -> float:
                began = time.perf_counter()
                for _ in range(steps):
                    optimizer.step()
                return time.perf_counter() - began

            return go

        for other in ("plain", "foreach"):
            compare(f"fused AdamW, {label}, against {other}", seconds("fused"), seconds(other), rounds)


def foreach_average(data: str, steps: int, rounds: int) -> None:
    """A teacher's moving average, all weights in one call."""
    student = [weight.detach() for weight in timm.create_model("vit_small_patch16_224", num_classes=0).parameters()]
    teacher = deepcopy(student)

    def together() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            torch._foreach_lerp_(teacher, student, 0.004)
        return time.perf_counter() - began

    def one_by_one() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            for mine, other in zip(teacher, student, strict=True):
                mine.lerp_(other, 0.004)
        return time.perf_counter() - began

    compare("foreach average, ViT-S", together, one_by_one, rounds)


def compiled(data: str, steps: int, rounds: int) -> None:
    """torch.compile around the network."""
    for name, source, settings in (("simclr", data, PICTURES), ("causal_lm", "sample:prose", TEXT)):
        ours, plain = (start(name, source, settings) for _ in range(2))
        part = ours.objective.backbone if name == "simclr" else ours.objective.network
        began = time.perf_counter()
        try:
            part.compile(dynamic=False)
            quick = Steps(ours, 2)
            quick()
        except Exception as error:  # no compiler on this machine, or a network that it cannot follow
            say(f"compile, {name}: {' '.join(str(error).split())[:200]}")
            continue
        spent = time.perf_counter() - began
        with_it, without = Steps(ours, steps), Steps(plain, steps)
        with_it.stream, with_it.done = quick.stream, quick.done
        without()
        gain = (without() - with_it()) / steps
        pays = round(spent / gain) if gain > 0 else None
        compare(f"compile, {name}", with_it, without, rounds, compiling_seconds=round(spent, 1), pays_after_steps=pays)


def resident(data: str, steps: int, rounds: int) -> None:
    """The whole store on the GPU."""
    if not torch.cuda.is_available():
        say("resident: no GPU here")
        return
    ours, plain = (start("simclr", data, PICTURES) for _ in range(2))
    store = ours.reader.store
    squares = torch.from_numpy(store.pixels(torch.arange(len(store)).numpy())).to(ours.runtime.device)

    def stream() -> Iterator[Parts]:
        for parts in ours.read(0, 10**6):
            yield [({**batch, "image": squares[draw.rows.to(squares.device)]}, draw) for batch, draw in parts]

    compare("resident", Steps(ours, steps, stream()), Steps(plain, steps), rounds)


CASES = {
    "views ahead": views_ahead, "workers": workers, "channels last": channels_last, "bfloat16": bfloat16,
    "fused": fused, "foreach average": foreach_average, "compile": compiled, "resident": resident,
}  # fmt: skip


def main() -> None:
    """All choices in turn."""
    given = arguments(__doc__).parse_args()
    chosen = given.what or [
        what for what in CASES if not (given.quick and what == "compile")
    ]  # it takes a minute alone
    for what in chosen:
        CASES[what](given.data or "sample:glyphs", *((2, 1) if given.quick else (10, 7)))


if __name__ == "__main__":
    main()

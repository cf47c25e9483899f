"""An objective for pictures from a folder, end to end, beside lightly's components in a loop as its examples have it.

Same pictures, network, start, batch, precision, optimizer and cores; lightly with the number of loader workers that is
fastest for it. The bare step is lightly's own: forward, loss, backward and optimizer on one batch that stays where it
is. Without --data the letters of `sample:glyphs` are written out as a folder first. Quality is kNN after equal steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from side_by_side import Side, arguments, in_turn, own_memory, publish, say
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import selfsup
from selfsup.construct import construct
from selfsup.data.samples import load_sample
from selfsup.eval.features import Features
from selfsup.eval.labelled import Labelled, open_labelled
from selfsup.image_encoder import ImageEncoder
from selfsup.loop import Training
from selfsup.objective import load_objective
from selfsup.planning import make_plan
from selfsup.prepare import Prepared, prepare
from selfsup.progress import Progress
from selfsup.resolve import resolve
from selfsup.runtime import Runtime

RATE = 1e-3
Cases = Mapping[str, tuple[dict[str, Any], int, int]]  # settings of the network, rows in a batch, steps of a round
TRANSFORMERS: Cases = {
    "vit-s16": ({"network": "vit_small_patch16_224", "pixels": 96}, 64, 4),
    "narrow": ({"size": "nano", "pixels": 32}, 128, 8),
}
TRANSFORMERS_ON_GPU: Cases = {
    "vit-s16": ({"network": "vit_small_patch16_224", "pixels": 96}, 512, 40),
    "narrow": ({"size": "nano", "pixels": 32}, 512, 60),
}


class Peer(ABC):
    """A loop as lightly's examples have it, from the same weights.

    Attributes:
        network: the timm network whose vectors are judged.
        trained: everything that its optimizer changes.
    """

    network: nn.Module
    trained: nn.Module

    def __init__(self, training: Training, folder: Path, workers: int) -> None:
        self.runtime, self.batch = training.runtime, training.recipe.optimizer.batch
        facts = training.objective.facts
        self.build(training)
        weights = [weight for weight in self.trained.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        transform = self.transform(training, {"mean": list(facts.mean), "std": list(facts.sd)})
        self.loader = DataLoader(
            ImageFolder(str(folder), transform), self.batch, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=self.runtime.device.type == "cuda",
        )  # fmt: skip
        self.stream = self._endless()
        self.trained.train()

    @abstractmethod
    def build(self, training: Training) -> None:
        """Make the modules, on the device, with the weights of the run's network."""

    @abstractmethod
    def transform(self, training: Training, normalize: dict[str, list[float]]) -> Callable[[Image.Image], list[Tensor]]:
        """What makes the views of a picture."""

    @abstractmethod
    def loss(self, views: list[Tensor]) -> Tensor:
        """The loss of a batch of views, on the device."""

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            for views, _ in self.loader:
                yield views

    def step(self, views: list[Tensor]) -> None:
        """Forward, loss, backward, optimizer."""
        moved = [x.to(self.runtime.device, non_blocking=True, memory_format=torch.channels_last) for x in views]
        with self.runtime.autocast():
            loss = self.loss(moved)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, steps: int) -> float:
        """Time of some steps, data included."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step(next(self.stream))
        return finished() - began


def letters(folder: Path) -> Path:
    """`sample:glyphs` as a folder of PNG files, `train` and `test` with a folder a letter."""
    for part, columns in load_sample("glyphs").items():
        for number, (image, label) in enumerate(zip(columns["image"], columns["label"], strict=True)):
            place = folder / part / f"{ord(label[0]):05}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").save(place / f"{number}.png")
    return folder


def finished() -> float:
    """The clock, once the device has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def accuracy(encoder: ImageEncoder, labelled: Labelled) -> float:
    """KNN accuracy of an encoder."""
    return float((Features.of(encoder, labelled).knn() == labelled.test_labels).double().mean())


def begun(objective: str, folder: Path, batch: int, steps: int, settings: dict[str, Any]) -> tuple[Training, Prepared]:
    """A run of selfsup about to begin."""
    runtime = Runtime(convolutions=True)
    recipe = selfsup.recipe(
        objective, data=str(folder), optimizer="adamw", rate=RATE, batch=batch, steps=steps, **settings
    )
    prepared = prepare(recipe.data, None, runtime.device.type == "cuda", Progress(False))
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    reader = load_objective(objective).reader(recipe.config, prepared.train)
    return Training(construct(recipe, prepared.facts, None, None), reader, recipe, runtime), prepared


def fastest_workers(peer: type[Peer], training: Training, folder: Path, what: str) -> int:
    """The number of loader workers with which the peer is fastest."""
    gpu = training.runtime.device.type == "cuda"
    trial = 8 if gpu else 2
    found: dict[int, float] = {}
    for workers in (0, 1, 2, *((4, 8, 15) if gpu else ())):
        tried = peer(training, folder, workers)
        tried.seconds(2)  # workers start, buffers fill
        found[workers] = tried.seconds(trial) / trial
        say(f"{what}: lightly with {workers} workers {tried.batch / found[workers]:.0f} pictures/s")
        del tried
    return min(found, key=lambda number: found[number])


def case(
    objective: str, peer: type[Peer], what: str, cases: Cases, folder: Path, quick: bool, differs: dict[str, str]
) -> None:
    """One network."""
    settings, batch, steps = cases[what]
    batch, steps, rounds = (batch // 8, min(steps, 4), 2) if quick else (batch, steps, 5)
    training, prepared = begun(objective, folder, batch, steps * (rounds + 1), settings)
    recipe, runtime = training.recipe, training.runtime
    flat = replace(make_plan(recipe.optimizer, 0, 10**6), warmup=1)  # the same rate in every step, as the other has it
    stream, done = training.read(0, 10**6), iter(range(10**6))

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            training.step(next(done), next(stream), flat)
        return finished() - began

    workers = fastest_workers(peer, training, folder / "train", what)
    other, bare = peer(training, folder / "train", workers), peer(training, folder / "train", 0)
    resident = [view.to(runtime.device) for view in next(bare.stream)]

    def bare_steps() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            bare.step(resident)
        return finished() - began

    sides = Side(ours), Side(lambda: other.seconds(steps))
    times = in_turn(rounds, *sides, Side(bare_steps))
    labelled = open_labelled(recipe.data, None, prepared.facts.resolution, Progress(False))
    assert labelled is not None
    labelled = labelled.sample(*((500, 250) if quick else (4_000, 1_000)))
    encoder = training.objective.encoder
    about = encoder.about
    said = {
        "batch": batch, "steps": steps * (rounds + 1), "network": about.network, "arguments": about.arguments,
        "pixels": prepared.facts.size, "precision": runtime.precision, "optimizer": "adamw", "rate": RATE,
    }  # fmt: skip
    encoders = encoder, ImageEncoder(other.network, about)
    for side, seconds, judged in zip(sides, times[:2], encoders, strict=True):
        speed = batch * steps / statistics.median(seconds)
        side.about = {"pictures_per_s": round(speed, 1), "knn": round(accuracy(judged, labelled), 4), **said}
    sides[1].about["workers"] = workers
    sides[0].about |= {"workers": recipe.data.workers, "process_mb": round(own_memory())}
    differs = {"data": "selfsup decodes every picture once, lightly in every epoch", **differs}
    publish(objective, what, "lightly", times, sides, differs, ("lightly", "timm"))


def run(
    text: str | None, objective: str, peer: type[Peer], cases: Cases, on_gpu: Cases, differs: dict[str, str]
) -> None:
    """All networks of a benchmark in turn."""
    given = arguments(text).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.data) if given.data else letters(Path(scratch) / "glyphs")
        for what in given.what or cases:
            case(objective, peer, what, on_gpu if torch.cuda.is_available() else cases, folder, given.quick, differs)

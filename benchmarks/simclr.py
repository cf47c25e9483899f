"""SimCLR from a folder of pictures, end to end, beside lightly's transform, head, loss and loop.

    python benchmarks/simclr.py [--quick] [--data cifar10] [--what resnet18 narrow]

Same pictures, network, start, batch, precision, memory format, optimizer and cores; lightly with the number of loader
workers that is fastest for it. The bare step is lightly's own: forward, loss, backward and optimizer on one batch that
stays where it is. Without --data the letters of `sample:glyphs` are written out as a folder first. Quality is kNN after
equal steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
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
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.runtime import Runtime
from selfsup.training import resolve

RATE = 1e-3
CASES = {  # what the network is, rows in a batch, steps of a round
    "resnet18": ({"network": "resnet18"}, 64, 3),
    "narrow": ({"size": "nano"}, 256, 30),
}
ON_GPU = {"resnet18": ({"network": "resnet18"}, 512, 60), "narrow": ({"size": "nano"}, 512, 60)}


def letters(folder: Path) -> Path:
    """`sample:glyphs` as a folder of PNG files, `train` and `test` with a folder a letter."""
    for part, columns in load_sample("glyphs").items():
        for number, (image, label) in enumerate(zip(columns["image"], columns["label"], strict=True)):
            place = folder / part / f"{ord(label[0]):05}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).convert("RGB").save(place / f"{number}.png")
    return folder


class Lightly:
    """A loop as lightly's examples have it, from the same weights."""

    def __init__(self, training: Training, folder: Path, workers: int) -> None:
        config, facts = training.recipe.config, training.objective.facts
        self.runtime, self.batch = training.runtime, training.recipe.optimizer.batch
        self.network = deepcopy(training.objective.backbone)
        width = training.objective.encoder.width
        self.head = SimCLRProjectionHead(width, config.hidden, config.output).to(self.runtime.device)
        self.loss = NTXentLoss(temperature=config.temperature)
        weights = [*self.network.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
        transform = SimCLRTransform(
            input_size=facts.size, min_scale=config.crop_min, cj_strength=config.color, hf_prob=config.flip,
            random_gray_scale=config.gray, gaussian_blur=config.blur,
            normalize={"mean": list(facts.mean), "std": list(facts.sd)},
        )  # fmt: skip
        self.loader = DataLoader(
            ImageFolder(str(folder), transform), self.batch, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=self.runtime.device.type == "cuda",
        )  # fmt: skip
        self.stream = self._endless()
        self.network.train()

    def _endless(self) -> Iterator[list[Tensor]]:
        while True:
            for views, _ in self.loader:
                yield views

    def step(self, views: list[Tensor]) -> None:
        """Forward, loss, backward, optimizer."""
        x = torch.cat(views).to(self.runtime.device, non_blocking=True, memory_format=torch.channels_last)
        with self.runtime.autocast():
            z = self.head(self.network(x)).float()
        first, second = z.chunk(2)
        self.loss(first, second).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, steps: int) -> float:
        """Time of some steps, data included."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step(next(self.stream))
        return finished() - began


def finished() -> float:
    """The clock, once the device has done what it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def accuracy(module: nn.Module, training: Training, labelled: Labelled) -> float:
    """KNN accuracy of a network of the run's kind."""
    encoder = ImageEncoder(module, training.objective.encoder.about)
    return float((Features.of(encoder, labelled).knn() == labelled.test_labels).double().mean())


def case(what: str, folder: Path, quick: bool) -> None:
    """One network."""
    runtime = Runtime(convolutions=True)
    gpu = runtime.device.type == "cuda"
    network, batch, steps = (ON_GPU if gpu else CASES)[what]
    batch, steps, rounds = (batch // 8, min(steps, 4), 2) if quick else (batch, steps, 5)
    recipe = selfsup.recipe(
        "simclr", data=str(folder), optimizer="adamw", rate=RATE, batch=batch, steps=steps * (rounds + 1), **network
    )
    quiet = Progress(False)
    prepared = prepare(recipe.data, None, gpu, quiet)
    recipe = resolve(recipe, prepared, runtime.device, runtime.precision)
    reader = load_objective("simclr").reader(recipe.config, prepared.train)
    training = Training(construct(recipe, prepared.facts, None, None), reader, recipe, runtime)
    flat = replace(make_plan(recipe.optimizer, 0, 10**6), warmup=1)  # the same rate in every step, as the other has it
    stream = training.read(0, 10**6)
    done = iter(range(10**6))

    def ours() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            training.step(next(done), next(stream), flat)
        return finished() - began

    trial = 8 if gpu else 2
    found: dict[int, float] = {}
    for workers in (0, 1, 2, *((4, 8, 15) if gpu else ())):
        peer = Lightly(training, folder / "train", workers)
        peer.seconds(2)  # workers start, buffers fill
        found[workers] = peer.seconds(trial) / trial
        say(f"{what}: lightly with {workers} workers {batch / found[workers]:.0f} pictures/s")
        del peer
    workers = min(found, key=lambda number: found[number])
    peer = Lightly(training, folder / "train", workers)
    labelled = open_labelled(recipe.data, None, prepared.facts.resolution, quiet)
    assert labelled is not None
    labelled = labelled.sample(*((500, 250) if quick else (10_000, 2_000)))

    bare = Lightly(training, folder / "train", 0)
    resident = [view.to(runtime.device) for view in next(bare.stream)]

    def bare_steps() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            bare.step(resident)
        return finished() - began

    sides = Side(ours), Side(lambda: peer.seconds(steps))
    times = in_turn(rounds, *sides, Side(bare_steps))
    settings = {
        "batch": batch, "steps": steps * (rounds + 1),
        "network": recipe.backbone.network or f"size {recipe.backbone.size}", "pixels": prepared.facts.size,
        "precision": runtime.precision, "optimizer": "adamw", "rate": RATE,
    }  # fmt: skip
    modules = training.objective.backbone, peer.network
    for side, seconds, module in zip(sides, times[:2], modules, strict=True):
        speed = batch * steps / statistics.median(seconds)
        side.about = {
            "pictures_per_s": round(speed, 1),
            "knn": round(accuracy(module, training, labelled), 4),
            **settings,
        }
    sides[1].about["workers"] = workers
    sides[0].about |= {"workers": recipe.data.workers, "process_mb": round(own_memory())}
    differs = {
        "data": "selfsup decodes every picture once, lightly in every epoch",
        "colors": "selfsup: one matrix a picture, hue about the gray axis",
    }
    publish("simclr", what, "lightly", times, sides, differs, ("lightly", "timm"))


def main() -> None:
    """All networks in turn."""
    given = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.data) if given.data else letters(Path(scratch) / "glyphs")
        for what in given.what or CASES:
            case(what, folder, given.quick)


if __name__ == "__main__":
    main()

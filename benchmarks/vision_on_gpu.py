"""What a GPU shows, in two calls of less than nine minutes each: beside lightly, and SimCLR as far as its papers go.

    python benchmarks/vision_on_gpu.py --part beside --data cifar10 [--quick]
    python benchmarks/vision_on_gpu.py --part alone --data cifar10 [--quick] [--out runs/simclr-100]

`beside`: SimCLR (ResNet-18, batch 512) and DINO (ViT of the dial's `tiny`, batch 512), three epochs in each tool from
the same weights: seconds end to end, and kNN. `alone`: SimCLR with its recipe for 100 epochs, kNN on the test part
(lightly's and others' published ResNet-18 at batch 512: 83.2 % on the original pixels). Lines of JSON go to standard
output. DIR has train/ and test/ with a folder a class. `--quick` trains a few steps of narrow networks.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from beside_lightly import RATE, Peer, accuracy, begun, fastest_workers, finished
from dino import Lightly as LightlyDINO
from side_by_side import device_name, say
from simclr import Lightly as LightlySimCLR

import selfsup
from selfsup.eval.labelled import open_labelled
from selfsup.image_encoder import ImageEncoder
from selfsup.planning import make_plan
from selfsup.progress import Progress

EPOCHS = 3
BESIDE: dict[str, tuple[type[Peer], dict[str, Any]]] = {
    "simclr": (LightlySimCLR, {"network": "resnet18"}),
    "dino": (LightlyDINO, {"size": "tiny"}),
}


def publish(line: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps({**line, "device": device_name(), "torch": torch.__version__}) + "\n")
    sys.stdout.flush()


def beside(objective: str, folder: Path, quick: bool) -> None:
    """Three epochs in each tool, one after the other."""
    peer, settings = BESIDE[objective]
    batch = 64 if quick else 512
    training, prepared = begun(objective, folder, batch, 10**6, {"size": "nano"} if quick else settings)
    steps = 4 if quick else EPOCHS * training.order.steps_per_epoch
    flat = replace(
        make_plan(replace(training.recipe.optimizer, warmup=0.0), 0, steps), schedule="trapezoid", cooldown=1
    )
    workers = fastest_workers(peer, training, folder / "train", objective)
    other = peer(training, folder / "train", workers)
    other.seconds(2)
    began = finished()
    for number, parts in enumerate(training.read(0, steps)):
        training.step(number, parts, flat)
    ours = finished() - began
    theirs = other.seconds(steps)
    labelled = open_labelled(training.recipe.data, None, prepared.facts.resolution, Progress(False))
    assert labelled is not None
    labelled = labelled.sample(500, 250) if quick else labelled
    encoder = training.objective.encoder
    networks = encoder, ImageEncoder(other.network, encoder.about)
    knn = [round(accuracy(network, labelled), 4) for network in networks]
    publish(
        {
            "benchmark": "vision_on_gpu", "what": objective, "peer": "lightly", "ratio": round(theirs / ours, 3),
            "ours": {"seconds": round(ours, 1), "knn": knn[0]},
            "theirs": {"seconds": round(theirs, 1), "knn": knn[1], "workers": workers},
            "steps": steps, "batch": batch, "rate": RATE, "network": encoder.about.network,
        }
    )  # fmt: skip
    say(f"{objective}: selfsup {ours:.1f} s, kNN {knn[0]:.3f}; lightly {theirs:.1f} s, kNN {knn[1]:.3f}")


def alone(folder: Path, out: Path, quick: bool) -> None:
    """SimCLR for 100 epochs, and what it is worth."""
    budget = (
        {"steps": 8, "size": "nano", "batch": 64} if quick else {"epochs": 100, "network": "resnet18", "batch": 512}
    )
    run = selfsup.train(selfsup.recipe("simclr", data=str(folder), **budget), out)
    record = run.record
    labelled = open_labelled(run.data, None, run.facts.resolution, Progress(False))
    assert labelled is not None
    labelled = labelled.sample(500, 250) if quick else labelled
    encoder = run.encoder().to("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(encoder, ImageEncoder)
    knn = round(accuracy(encoder, labelled), 4)
    publish(
        {
            "benchmark": "vision_on_gpu", "what": "simclr alone", "knn": knn, "steps": run.step,
            "seconds": round(record["seconds"], 1), "samples": record["samples"], "recipe": record["recipe"],
        }
    )  # fmt: skip


def main() -> None:
    """One of the two calls."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--part", choices=("beside", "alone"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/simclr-100"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.part == "alone":
        alone(given.data, given.out, given.quick)
    else:
        for objective in BESIDE:
            beside(objective, given.data, given.quick)


if __name__ == "__main__":
    main()

"""What picture features are worth: kNN and a linear probe for the run, the untrained encoder and the raw pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.data.crops import resize
from selfsup.data.pixels import PixelStore
from selfsup.data.source import Data, open_source
from selfsup.errors import UserError
from selfsup.eval.knn import knn_accuracy
from selfsup.eval.linear import fit_linear
from selfsup.image_encoder import ImageEncoder
from selfsup.prepare import columns_of, open_part
from selfsup.progress import Progress
from selfsup.recipes import ImageData
from selfsup.run import Run
from selfsup.runtime import fastest_device

RAW = 32  # raw pictures larger than this are compared at this size
TEST = 5  # one picture in so many, by its content, where there is no test part
Result = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """Labelled pictures, cut into a part to fit on and a part to score on."""

    name: str
    split: str
    train: PixelStore
    test: PixelStore

    def labels(self) -> tuple[Tensor, Tensor]:
        """(N,) and (M,) int64."""
        return torch.from_numpy(self.train.label_rows()), torch.from_numpy(self.test.label_rows())


def with_label(store: PixelStore) -> PixelStore:
    """The rows that have a label."""
    return store.subset(np.flatnonzero(store.label_rows() >= 0))


def with_classes(store: PixelStore, classes: tuple[str, ...]) -> PixelStore:
    """The store with its labels as numbers of other classes; unknown ones become no label."""
    index = {name: number for number, name in enumerate(classes)}
    numbers = np.array([index.get(name, -1) for name in store.classes] + [-1], np.int64)
    return replace(store, labels=numbers[store.labels], classes=classes)


def open_labelled(settings: ImageData, data: Data | None, resolution: int, progress: Progress) -> Labelled:
    """Labelled pictures as users have them: classes as folders, a `label` column, with or without a test part.

    Args:
        settings: name the source, and its columns.
        data: objects given in Python, in place of the name.
        resolution: R, edge of the stored squares.
        progress: shows the work.

    Raises:
        UserError: no labels, or only one class.
    """
    source = open_source(settings.source if data is None else data, columns_of(settings.columns), settings.cache)
    source.require("image")
    train = open_part(source.parts["train"], resolution, settings, progress)
    if len(train.classes) < 2:
        have = f"only the label {train.classes[0]!r}" if train.classes else "no labels"
        raise UserError(
            f"{settings.source} has {have}; give --data with one folder per class, or a table with a label column"
        )
    own = next((name for name in ("test", "valid") if name in source.parts), None)
    if own:
        split, test = own, open_part(source.parts[own], resolution, settings, progress, train.channels)
        test = with_classes(test, train.classes)
    else:
        chosen = train.digests % TEST == 0
        test, split = train.subset(np.flatnonzero(chosen)), "one in five by content"
        train = train.subset(np.flatnonzero(~chosen))
    train, test = with_label(train), with_label(test)
    if len(train) < 2 or not len(test):
        raise UserError(
            f"{settings.source}: {len(train)} labelled pictures to fit on and {len(test)} to score on are too few"
        )
    return Labelled(settings.source, split, train, test)


def raw_features(store: PixelStore, size: int) -> Tensor:
    """(N, C * S * S) float32: the pictures themselves, at most `RAW` pixels wide."""
    edge = min(size, RAW)
    parts = [
        torch.from_numpy(store.pixels(np.arange(i, min(i + 1024, len(store))))) for i in range(0, len(store), 1024)
    ]
    return torch.cat([resize(part, edge).flatten(1) for part in parts])


def evaluate_pictures(run: Run, labelled: Labelled, progress: Progress) -> list[Result]:
    """Accuracy of kNN and a linear probe of the run, the untrained encoder and the raw pixels, one result each.

    The untrained encoder is the run's own at step 0; its batch norms get one pass of statistics, without which it
    would be judged by chance. Whatever is chosen is chosen on training rows; the test part is scored once.
    """
    device = fastest_device()
    trained, untrained = run.encoder().to(device), next(iter(run.untrained().encoders().values())).to(device)
    assert isinstance(trained, ImageEncoder) and isinstance(untrained, ImageEncoder)
    untrained.calibrate(labelled.train)
    features: dict[str, Callable[[PixelStore], Tensor]] = {
        "run": trained.encode,
        "untrained": untrained.encode,
        "raw": lambda store: raw_features(store, trained.about.size),
    }
    labels, test_labels = labelled.labels()
    classes = len(labelled.train.classes)
    chance = float(torch.bincount(test_labels, minlength=classes).max() / len(test_labels))
    results: list[Result] = []
    for done, (name, encode) in enumerate(features.items()):
        progress.part("features and probes", done, len(features))
        x, y = encode(labelled.train), encode(labelled.test)
        scores = {"knn": knn_accuracy(x, labels, y, test_labels, classes)}
        probe = fit_linear(x, labels, classes, seed=run.recipe.seed)
        scores["linear"] = float((probe.predict(y) == test_labels).float().mean())
        for task, score in scores.items():
            results.append(
                {
                    "task": task, "representation": name, "data": labelled.name, "split": labelled.split,
                    "step": run.step, "layer": "last", "labels": 1.0, "metric": "accuracy", "mean": score,
                    "chance": chance, "seed": run.recipe.seed,
                }
            )  # fmt: skip
    progress.part("features and probes", len(features), len(features))
    return results

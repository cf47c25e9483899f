"""Labelled data to judge encoders by, as users have it: a part to fit on and a part to score on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from selfsup.data.documents import whole_documents
from selfsup.data.part import Part, label_column
from selfsup.data.pixels import PixelStore
from selfsup.data.source import GIVEN, Data, Source, open_source
from selfsup.data.store import fingerprint
from selfsup.errors import UserError
from selfsup.prepare import columns_of, open_part
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData

log = logging.getLogger("selfsup")
TEST = 5  # one sample in so many, by its content, where there is no test part
Samples = PixelStore | list[str]


@dataclass(frozen=True)
class Labelled:
    """Samples with their classes, cut into two parts.

    Attributes:
        name: of the source.
        split: what the part to score on is.
        identity: fingerprint of the part to fit on, settings of its preparation included.
        classes: names of the classes.
        train: N samples to fit on.
        labels: (N,) int64.
        test: M samples to score on.
        test_labels: (M,) int64.
        scored: fingerprint of the part to score on, where it is a part of its own.
    """

    name: str
    split: str
    identity: str
    classes: tuple[str, ...]
    train: Samples
    labels: Tensor
    test: Samples
    test_labels: Tensor
    scored: str = ""

    @property
    def key(self) -> str:
        """Fingerprint of both parts."""
        return fingerprint([self.identity, self.scored])

    @property
    def chance(self) -> float:
        """Accuracy of whoever always names the commonest class of the part that is scored."""
        return float(torch.bincount(self.test_labels).max() / len(self.test_labels))

    def sample(self, most: int, most_test: int) -> Labelled:
        """Some of the rows, evenly spread, for a quick look."""
        rows, test_rows = spread_rows(len(self.labels), most), spread_rows(len(self.test_labels), most_test)
        return replace(
            self,
            train=chosen(self.train, rows), labels=self.labels[torch.from_numpy(rows)],
            test=chosen(self.test, test_rows), test_labels=self.test_labels[torch.from_numpy(test_rows)],
        )  # fmt: skip


def spread_rows(count: int, most: int) -> np.ndarray:
    """Numbers of at most so many of `count` rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def chosen(samples: Samples, rows: np.ndarray) -> Samples:
    """Some of the samples, in the order given."""
    return samples.subset(rows) if isinstance(samples, PixelStore) else [samples[row] for row in rows.tolist()]


def texts_of(part: Part) -> tuple[list[str], set[int]]:
    """The text of every row of a part, and the rows of which there is none."""
    bad: list[tuple[int, str, str]] = []
    texts = list(whole_documents(part.table, bad))
    broken = {row for row, _, _ in bad} | {row for row, text in enumerate(texts) if not text}
    return texts, broken


@dataclass(frozen=True)
class _Opened:
    """One part: its samples, its label of each (-1 for none) and the names of the classes."""

    samples: Samples
    labels: np.ndarray
    classes: tuple[str, ...]

    def subset(self, rows: np.ndarray) -> _Opened:
        return _Opened(chosen(self.samples, rows), self.labels[rows], self.classes)

    def digests(self) -> np.ndarray:
        """(N,) integers, equal for equal content."""
        if isinstance(self.samples, PixelStore):
            return self.samples.digests[self.samples.rows]
        hashes = (hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest() for text in self.samples)
        return np.array([int.from_bytes(digest, "little") for digest in hashes], np.int64)

    def in_classes(self, classes: tuple[str, ...]) -> _Opened:
        """The rows that have a label, as numbers of these classes."""
        index = {name: number for number, name in enumerate(classes)}
        numbers = np.array([index.get(name, -1) for name in self.classes] + [-1], np.int64)
        labels = numbers[self.labels]
        return _Opened(self.samples, labels, classes).subset(np.flatnonzero(labels >= 0))


def _open(part: Part, resolution: int, settings: ImageData | TextData, progress: Progress, like: Samples) -> _Opened:
    """A part made ready; of pictures with the channels of `like`."""
    if isinstance(settings, ImageData):
        channels = like.channels if isinstance(like, PixelStore) else None
        store = open_part(part, resolution, settings, progress, channels)
        return _Opened(store, store.label_rows(), store.classes)
    labels, classes = label_column(part.table)
    texts, broken = texts_of(part)
    labels[sorted(broken)] = -1
    return _Opened(texts, labels, classes)


def open_source_of(settings: ImageData | TextData, data: Data | None) -> tuple[Source, str]:
    """The source that settings name, or objects given in Python; and what to call it."""
    source = open_source(settings.source if data is None else data, columns_of(settings.columns), settings.cache)
    source.require("image" if isinstance(settings, ImageData) else "text")
    return source, settings.source if isinstance(data, str) or data is None else GIVEN


def open_labelled(
    settings: ImageData | TextData, data: Data | None, resolution: int, progress: Progress
) -> Labelled | None:
    """Labelled samples: classes as folders or a `label` column, with or without a test part; None without labels.

    Args:
        settings: name the source, and its columns.
        data: objects given in Python, in place of the name.
        resolution: R, edge of the stored squares; pictures only.
        progress: shows the work.

    Raises:
        UserError: only one class, or too few rows with a label.
    """
    source, name = open_source_of(settings, data)
    if "label" not in source.parts["train"].table.column_names:
        return None
    train = _open(source.parts["train"], resolution, settings, progress, [])
    if not train.classes:
        return None
    if len(train.classes) == 1:
        raise UserError(
            f"{name} has only the label {train.classes[0]!r}; "
            "give --data with one folder per class, or a table with a label column of two classes or more"
        )
    own = next((part for part in ("test", "valid") if part in source.parts), None)
    if own:
        if "label" not in source.parts[own].table.column_names:
            raise UserError(f"{name}: its {own} part has no labels, its train part has")
        split, test = own, _open(source.parts[own], resolution, settings, progress, train.samples)
    else:
        picked = train.digests() % TEST == 0
        split, test = "one in five by content", train.subset(np.flatnonzero(picked))
        train = train.subset(np.flatnonzero(~picked))
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        log.warning("%s: the %s part has classes that the train part lacks, left out: %s", name, split, unknown[:5])
    train, test = train.in_classes(train.classes), test.in_classes(train.classes)
    if len(train.labels) < 2 or not len(test.labels):
        raise UserError(
            f"{name}: {len(train.labels)} labelled samples to fit on and {len(test.labels)} to score on are too few"
        )
    if len(np.unique(train.labels)) < 2:
        raise UserError(f"{name}: the part to fit on has samples of one class only; two are needed")
    identity = fingerprint([source.parts["train"].identity, split, resolution, train.classes])
    return Labelled(
        name, split, identity, train.classes,
        train.samples, torch.from_numpy(train.labels), test.samples, torch.from_numpy(test.labels),
        source.parts[own].identity if own else "",
    )  # fmt: skip

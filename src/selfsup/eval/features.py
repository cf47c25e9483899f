"""What an encoder knows of labelled samples: answers of kNN and of a linear probe on its features."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from selfsup.data.crops import resize
from selfsup.data.pixels import PixelStore
from selfsup.encoder import Encoder
from selfsup.eval.knn import knn_predict
from selfsup.eval.labelled import Labelled
from selfsup.eval.linear import LinearProbe, Setting, choose_setting, fit_linear

RAW = 32  # raw pictures larger than this are compared at this size


class Representation(ABC):
    """The samples of a `Labelled` as somebody sees them, and what follows from that for their labels."""

    @abstractmethod
    def knn(self) -> Tensor:
        """(M,) predicted classes of the part to score on, by its nearest neighbors in the part to fit on."""

    @abstractmethod
    def choose(self, rows: Tensor, seed: int) -> None:
        """Choose the settings of the linear probes to come on some rows of the part to fit on."""

    @abstractmethod
    def linear(self, rows: Tensor, seed: int) -> Tensor:
        """(M,) predicted classes, by a linear probe fitted on some rows of the part to fit on."""


class Features(Representation):
    """Dense features.

    Attributes:
        probe: the last one that was fitted.
    """

    def __init__(self, train: Tensor, test: Tensor, labelled: Labelled) -> None:
        """From (N, D) and (M, D) features."""
        self.train, self.test, self.labels = train, test, labelled.labels
        self.classes = len(labelled.classes)
        self.probe: LinearProbe | None = None
        self._setting: Setting | None = None

    @classmethod
    def of(cls, encoder: Encoder, labelled: Labelled) -> Features:
        """The features that an encoder makes."""
        return cls(encoder.encode(labelled.train), encoder.encode(labelled.test), labelled)

    def knn(self) -> Tensor:
        """See `Representation`."""
        return knn_predict(self.train, self.labels, self.test, self.classes)

    def _seen(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and labels of some rows, without a copy where they are all."""
        return (self.train, self.labels) if len(rows) == len(self.train) else (self.train[rows], self.labels[rows])

    def choose(self, rows: Tensor, seed: int) -> None:
        """See `Representation`."""
        self._setting = choose_setting(*self._seen(rows), self.classes, seed)

    def linear(self, rows: Tensor, seed: int) -> Tensor:
        """See `Representation`."""
        self.probe = fit_linear(*self._seen(rows), self.classes, seed, self._setting)
        return self.probe.predict(self.test)


def flat_pixels(squares: np.ndarray, size: int) -> Tensor:
    """(B, R, R, C) uint8 pictures as (B, C * S * S) float32, at most `RAW` pixels wide."""
    return resize(torch.from_numpy(squares), min(size, RAW)).flatten(1)


def raw_pixels(store: PixelStore, size: int) -> Tensor:
    """(N, C * S * S) float32: the pictures themselves."""
    found = torch.empty(len(store), store.channels * min(size, RAW) ** 2)
    for start in range(0, len(store), 1024):
        rows = np.arange(start, min(start + 1024, len(store)))
        found[start : start + 1024] = flat_pixels(store.pixels(rows), size)
    return found

"""How many labels a probe may see: a share of them, or some of each class; drawn several times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.errors import UserError

DRAWS = 5  # of the labels, for each level below all of them
LEVELS = ("1%", "10%", "100%")


@dataclass(frozen=True)
class Level:
    """An amount of labels: a share of each class, or so many of each class."""

    share: float | None = None
    per_class: int | None = None

    @classmethod
    def parse(cls, text: str) -> Level:
        """`10%` is a share, `5` is five a class.

        Raises:
            UserError: it is neither.
        """
        number = text.removesuffix("%").strip()
        try:
            value = float(number) if text.endswith("%") else int(number)
        except ValueError:
            value = math.nan
        if text.endswith("%") and 0 < value <= 100:
            return cls(share=value / 100)
        if not text.endswith("%") and value >= 1:
            return cls(per_class=int(value))
        raise UserError(f"--labels {text}: allowed are a share, such as 10%, or a number for each class, such as 5")

    def seen(self, labels: int, classes: int) -> float:
        """Share of all labels that is seen."""
        return self.share or min((self.per_class or 0) * classes / labels, 1.0)

    @property
    def whole(self) -> bool:
        """Whether these are all labels, so that there is nothing to draw."""
        return self.share == 1.0

    @property
    def draws(self) -> int:
        """How often such labels are drawn."""
        return 1 if self.whole else DRAWS

    def __str__(self) -> str:
        return f"{100 * self.share:g} %" if self.share else f"{self.per_class} a class"

    def fits(self, labels: Tensor, classes: int) -> bool:
        """Whether there are at least as many rows as classes to draw, and as many in a class as asked for."""
        counts = torch.bincount(labels, minlength=classes)
        if self.per_class is not None:
            return bool(counts[counts > 0].min() >= self.per_class)
        return self.whole or (self.share is not None and self.share * len(labels) >= classes)

    def rows(self, labels: Tensor, draw: int) -> Tensor:
        """(n,) rows whose labels may be seen, each class in proportion and at least once; another draw, other rows."""
        if self.whole:
            return torch.arange(len(labels))
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(len(labels), generator=generator)
        found = []
        for one in labels.unique().tolist():
            rows = order[labels[order] == one]
            wanted = self.per_class or max(round(float(self.share or 0) * len(rows)), 1)
            found.append(rows[:wanted])
        return torch.cat(found).sort().values

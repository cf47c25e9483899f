"""Labelled texts, and some of them drawn evenly over their classes: what a prompt shows before it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.data.draw import Draw
from selfsup.data.part import by_meaning, cell_name, label_column
from selfsup.data.source import Data, Source, open_source
from selfsup.errors import UserError
from selfsup.eval.labelled import texts_of


@dataclass(frozen=True)
class Rows:
    """Rows of a source that holds texts.

    Attributes:
        texts: empty where a row is, or cannot be read.
        labels: names of classes; empty for none.
        names: file of each row, or its number.
        parts: part of each row.
    """

    texts: list[str]
    labels: list[str]
    names: list[str]
    parts: list[str]

    @classmethod
    def of(cls, source: Source, column: str, only: str | None = None) -> Rows:
        """Rows of all parts in order, or of one part only.

        Args:
            source: has to have texts.
            column: of the labels, where a part has it.
            only: name of the one part.
        """
        source.require("text")
        found = cls([], [], [], [])
        for name, part in source.parts.items():
            if only in (None, name):
                texts, broken = texts_of(part)
                has = column in part.table.column_names
                numbers, classes = label_column(by_meaning(part, {"label": column} if has else {}, source.name).table)
                found.texts.extend("" if row in broken else text for row, text in enumerate(texts))
                found.labels.extend(classes[number] if number >= 0 else "" for number in numbers.tolist())
                found.names.extend(cell_name(part.table, row) for row in range(len(part)))
                found.parts.extend([name] * len(part))
        return found


@dataclass(frozen=True)
class Examples:
    """Labelled texts.

    Attributes:
        texts: N texts.
        labels: (N,) int64.
        classes: names of the classes.
    """

    texts: list[str]
    labels: Tensor
    classes: tuple[str, ...]

    @classmethod
    def of(cls, like: Data, columns: Mapping[str, str]) -> Examples:
        """The rows of a source's training part that have a text and a label.

        Raises:
            UserError: there are none, or of one class only.
        """
        source = open_source(like, columns)
        rows = Rows.of(source, "label", "train")
        known = [(text, label) for text, label in zip(rows.texts, rows.labels, strict=True) if text and label]
        classes = tuple(sorted({label for _, label in known}))
        if not classes:
            raise UserError(
                f"--like {source.name} has no labels; give one folder per class, or a table with a label column"
            )
        if len(classes) == 1:
            raise UserError(f"--like {source.name} has only the label {classes[0]!r}; give examples of two or more")
        labels = torch.tensor([classes.index(label) for _, label in known])
        return cls([text for text, _ in known], labels, classes)

    def drawn(self, count: int, draw: Draw) -> list[int]:
        """Rows of some examples in random order, of each class equally many as far as that can be.

        Args:
            count: of rows.
            draw: for each example, a row.
        """
        order = draw.uniform("example").argsort(stable=True)
        rank = torch.empty(len(order))  # 0 for the first of each class, 1 for the second, ...
        for one in range(len(self.classes)):
            rows = order[self.labels[order] == one]
            rank[rows] = torch.arange(len(rows)).float()
        chosen = (rank + draw.uniform("class")).argsort(stable=True)[:count]
        return chosen[draw.uniform("place")[chosen].argsort(stable=True)].tolist()

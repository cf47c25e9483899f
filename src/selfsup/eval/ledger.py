"""A file of results that grows as they are found: what stands in it is not computed again."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.data.store import fingerprint
from selfsup.errors import UserError
from selfsup.eval.result import Result
from selfsup.run import append_line, check_writable, whole_lines

KEY, ANSWERS = "key", "answers"
Found = tuple[Result, Tensor | None]  # a result, and the answers (draws, M) that it counts, where it counts some


def packed(right: Tensor) -> dict[str, Any]:
    """(draws, M) bool as JSON, eight answers a byte."""
    return {"shape": list(right.shape), "bits": base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()}


def unpacked(record: dict[str, Any]) -> Tensor:
    """The inverse of `packed`."""
    draws, rows = record["shape"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(record["bits"]), np.uint8), count=draws * rows)
    return torch.from_numpy(bits.astype(bool).reshape(draws, rows))


class Ledger:
    """Results by all that they depend on; on a file where one is named.

    The answers are kept beside each accuracy: differences are told from chance by the answers to the same questions.
    """

    def __init__(self, file: Path | None) -> None:
        """Read what is there.

        Raises:
            UserError: the file holds something else, or cannot be written.
        """
        self.file = file
        self._known: dict[str, Found] = {}
        if file is None:
            return
        if file.suffix != ".jsonl":
            raise UserError(f"--out {file}: allowed is a name that ends in .jsonl")
        check_writable(file)
        if not file.exists():
            return
        lines = whole_lines(file)
        if file.stat().st_size and not any(KEY in line for line in lines):
            raise UserError(f"--out {file} is there and holds no results of compare; name another file")
        for line in lines:
            key, answers = line.pop(KEY, None), line.pop(ANSWERS, None)
            if key is not None:
                self._known[key] = line, None if answers is None else unpacked(answers)

    def once(self, depends_on: Sequence[object], make: Callable[[], Found]) -> Found:
        """What was found before, or what is found now.

        Args:
            depends_on: everything that the result follows from, as values that print as themselves.
            make: finds it.
        """
        key = fingerprint(depends_on)
        if key not in self._known:
            self._known[key] = row, right = make()
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                append_line(self.file, {**row, KEY: key, **({} if right is None else {ANSWERS: packed(right)})})
        return self._known[key]

"""Companions mined while a run goes on: in force from a step exactly, and files of the run."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfsup.data.loader import batches
from selfsup.data.reader import Companions, Reader
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.objective import Objective
from selfsup.ops.gather import gather
from selfsup.recipes import Recipe
from selfsup.run import Run, writing
from selfsup.runtime import Runtime

FOLDER = "companions"
ROWS = 1024  # that are encoded at once


class Mining:
    """The companions of a run, which its objective mines at every multiple of so many steps.

    Attributes:
        every: steps; None for an objective that needs no companions.
        run: which keeps them; None while steps are only timed.
    """

    def __init__(self, objective: Objective, reader: Reader, recipe: Recipe, runtime: Runtime) -> None:
        self.objective, self.reader, self.recipe, self.runtime = objective, reader, recipe, runtime
        self.every = objective.mine_every
        self.run: Run | None = None
        self._seconds = 0.0
        self._now: Companions | None = None  # in force
        self._named: dict[str, Any] = {}  # by the checkpoint that the run goes on from
        self._rehearsing = False  # while steps are only timed
        self._rehearsal: Companions | None = None  # in force meanwhile

    def stretches(self, start: int, stop: int) -> Iterator[tuple[int, int, Companions | None]]:
        """(first step, step after the last, companions) of each stretch with the same; mined when their turn comes."""
        if self._rehearsing:
            yield start, stop, self._rehearsal
            return
        while start < stop:
            end = stop if self.every is None else min((start // self.every + 1) * self.every, stop)
            self._now = self._in_force(start)
            yield start, end, self._now
            start = end

    def _in_force(self, step: int) -> Companions | None:
        """Those of a step: none before the first mining."""
        mined = 0 if self.every is None else step // self.every * self.every
        if not mined:
            return None
        if mined != step:
            return self._load(mined)
        began = time.perf_counter()
        try:
            return self._mine(mined)
        finally:
            self._seconds += time.perf_counter() - began

    def rehearse(self, mined: bool) -> float:
        """Seconds that mining adds to a step, by mining among a part of the rows; 0 when not `mined`.

        Until `load` companions that are drawn by chance are in force, or none.
        """
        self._rehearsing = True
        if not mined or self.every is None:
            return 0.0
        began, rows, world = time.perf_counter(), len(self.reader), self.runtime.world
        part = min(rows, ROWS * world)
        marks = self._marks(part)
        encoded = (time.perf_counter() - began) * rows / part
        began = time.perf_counter()
        found, _ = self.objective.companions(marks)
        searched = (time.perf_counter() - began) * (rows / part) ** 2  # every row among all
        drawn = np.random.default_rng(self.recipe.seed).integers(rows, size=(rows, found.shape[1]))
        self._rehearsal = Companions(0, torch.from_numpy(drawn))
        return (encoded + searched) / self.every

    def _marks(self, rows: int) -> dict[str, torch.Tensor]:
        """What the objective knows of the first rows, each process its share; equal on all processes."""
        share = -(-rows // self.runtime.world)
        mine = np.arange(self.runtime.rank * share, (self.runtime.rank + 1) * share).clip(max=rows - 1)
        order = [(-1, mine[i : i + ROWS]) for i in range(0, share, ROWS)]
        parts: dict[str, list[torch.Tensor]] = {}
        with evaluating(self.objective):
            for batch, draw in batches(self.reader, order, self.recipe.seed):
                with self.runtime.autocast():
                    marks = self.objective.marks(self.runtime.move(batch), draw.to(self.runtime.device))
                for name, value in marks.items():
                    parts.setdefault(name, []).append(value)
            return {name: gather(torch.cat(part))[:rows].cpu() for name, part in parts.items()}

    def _mine(self, step: int) -> Companions:
        """Encode all rows and find the companions; equal on all processes."""
        marks = self._marks(len(self.reader))
        found = self.objective.companions(marks) if self.runtime.main else None
        of_rows, about = self.runtime.same(found)  # type: ignore[misc]
        companions = Companions(step, of_rows)
        if self.runtime.main and self.run is not None:
            self._save(self.run, companions, about)
        self.runtime.wait()
        return companions

    def _file(self, run: Run, step: int) -> Path:
        return run.folder / FOLDER / f"{step}.npy"

    def _save(self, run: Run, companions: Companions, about: dict[str, float]) -> None:
        """Write them whole or not at all, and forget those that no checkpoint can go on with."""
        assert self.every is not None
        file = self._file(run, companions.step)
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            fresh = file.with_suffix(".new")
            with open(fresh, "wb") as target:
                np.save(target, companions.rows.numpy().astype(np.int32))
                target.flush()
                os.fsync(target.fileno())
            os.replace(fresh, file)
        oldest = min(run.steps, default=0) // self.every * self.every
        for old in file.parent.glob("*.npy"):
            if int(old.stem) < oldest:
                old.unlink()
        logged = any(line["task"] == "mining" and line["step"] == companions.step for line in run.lines("evals.jsonl"))
        if not logged:  # by the run that was killed after it
            line = {"task": "mining", "representation": "run", "step": companions.step, "split": "train"}
            run.log(
                "evals.jsonl", {**line, "metric": "negative cosine", "mean": about["cosine"], "chance": 0.0, **about}
            )

    def _load(self, step: int) -> Companions:
        """Those that were mined at a step before.

        Raises:
            UserError: they are gone, or others than the checkpoint names.
        """
        assert self.run is not None  # steps that are only timed load none
        file = self._file(self.run, step)
        if not file.exists():
            raise UserError(f"{file} is missing: the negatives that {self.run.folder} goes on with; put it back")
        rows = np.load(file)
        if self._named and self._named != _name(step, rows):
            raise UserError(f"{file} has changed since the checkpoint that names it was written; put it back")
        return Companions(step, torch.from_numpy(rows.astype(np.int64)))

    def taken(self) -> float:
        """Seconds of mining since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def state(self) -> dict[str, Any]:
        """What a checkpoint names: the companions in force."""
        return {} if self._now is None else {"companions": _name(self._now.step, self._now.rows.numpy())}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self._named, self._now, self._seconds = state.get("companions", {}), None, 0.0
        self._rehearsing, self._rehearsal = False, None


def _name(step: int, rows: np.ndarray) -> dict[str, Any]:
    """Which companions they are: when they were mined, and a digest of their numbers."""
    digest = hashlib.blake2b(np.ascontiguousarray(rows, np.int32).data, digest_size=12).hexdigest()
    return {"step": step, "digest": digest}

"""The run directory: the only thing that passes between training and everything after it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selfsup.construct import construct
from selfsup.data.facts import Facts, facts_from_json, facts_to_json
from selfsup.data.tokenizer import OWN
from selfsup.encoder import Encoder, load_encoder
from selfsup.errors import UserError, system_reason
from selfsup.objective import Objective, load_objective
from selfsup.recipes import CaptionData, ImageData, Recipe, TextData
from selfsup.settings import from_json, to_json

LATEST = "latest"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder without permission into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = system_reason(error)
        if "file write failed" in str(error) or "unexpected pos" in str(error):  # torch's words for a full disk
            reason = os.strerror(errno.ENOSPC)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}; nothing written before is lost") from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with writing(path):
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append an object to a file of JSON lines."""
    with writing(path), open(path, "a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = file.read() not in (b"", b"\n")  # by a kill: this line must not be joined to it
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file of JSON lines; none where there is no file."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            whole = json.loads(line)
        except json.JSONDecodeError:
            continue
        found += [whole] if isinstance(whole, dict) else []
    return found


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A folder, made where it is not there, for one process at a time.

    Raises:
        UserError: another process has it, or it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 - held meanwhile
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing {folder}; wait for its end, or write elsewhere") from error
        yield


class Run:
    """A folder with everything about one run.

    `run.json` (recipe, facts, plan, versions, cost), `metrics.jsonl`, `evals.jsonl`, `checkpoints/<step>/`,
    `tokenizer/`, `model/` (encoders and predictor, each as its own library loads it), `start/`, `pictures/`.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        """Open a run.

        Raises:
            UserError: there is none in this folder.
        """
        self.folder = Path(folder)
        if not (self.folder / "run.json").exists():
            there = "holds no run.json" if self.folder.exists() else "does not exist"
            raise UserError(
                f"{self.folder} {there}: it is no run; make one with selfsup train NAME --data ... --out {self.folder}"
            )

    @classmethod
    def create(
        cls,
        folder: Path,
        recipe: Recipe,
        facts: Facts,
        more: Mapping[str, Any],
        tokenizer: Path | None,
        started: Objective | None,
    ) -> Run:
        """A new run in a free folder (see `check_free`); `run.json` is written last and makes it a run.

        Args:
            folder: of the run.
            recipe: what it is.
            facts: what the store knows.
            more: further entries of `run.json`.
            tokenizer: folder of the tokenizer, which is copied into the run.
            started: the objective whose encoders came from `--init`; they are kept in `start/`.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if tokenizer is not None:
                shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
            if started is not None:
                save_encoders(started, folder / "start")
        record = {"recipe": to_json(recipe), "facts": facts_to_json(facts), **more}
        write_text(folder / "run.json", json.dumps(record, indent=2))
        return cls(folder)

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: it is no longer whole.
        """
        file = self.folder / "run.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is no whole JSON ({error}); put it back from a copy, or train anew") from error

    def update(self, values: Mapping[str, Any]) -> None:
        """Write entries into `run.json`."""
        write_text(self.folder / "run.json", json.dumps({**self.record, **values}, indent=2))

    @property
    def recipe(self) -> Recipe:
        """What the run is."""
        values = self.record["recipe"]
        return from_json(values, load_objective(values["objective"]).recipe())

    @property
    def data(self) -> ImageData | TextData:
        """Where the data is, and how it is read; a tokenizer that came from elsewhere is the run's own copy of it."""
        data = self.recipe.data
        if isinstance(data, TextData | CaptionData) and data.tokenizer not in OWN:
            return replace(data, tokenizer=str(self.folder / "tokenizer"))
        return data

    @property
    def facts(self) -> Facts:
        """What the store knew of the data."""
        return facts_from_json(self.record["facts"])

    # Lines

    def log(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl` or `evals.jsonl`."""
        append_line(self.folder / name, line)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All whole lines of a log; the torn last line of a killed run is left out."""
        return whole_lines(self.folder / name)

    def forget_after(self, step: int) -> None:
        """Drop the lines and checkpoints of steps that will be done again."""
        for later in (found for found in self.steps if found > step):
            shutil.rmtree(self.folder / "checkpoints" / str(later), ignore_errors=True)
        for name in ("metrics.jsonl", "evals.jsonl"):
            kept = [line for line in self.lines(name) if line["step"] <= step]
            if kept or (self.folder / name).exists():
                write_text(self.folder / name, "".join(json.dumps(line) + "\n" for line in kept))

    # Checkpoints

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, in order."""
        folder = self.folder / "checkpoints"
        return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit()) if folder.exists() else []

    @property
    def step(self) -> int:
        """Step of the latest checkpoint; 0 before the first."""
        file = self.folder / "checkpoints" / LATEST
        return int(file.read_text()) if file.exists() else 0

    def save(self, step: int, state: Mapping[str, Any], keep: set[int], keep_every: int | None) -> None:
        """Write a checkpoint, then `latest`, then delete old ones: all but the last two and those to be kept."""
        folder = self.folder / "checkpoints"
        fresh = folder / f"{step}.new"
        with writing(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            torch.save(dict(state), fresh / "state.pt")
            with open(fresh / "state.pt", "rb") as file:
                os.fsync(file.fileno())
            if (folder / str(step)).exists():  # of a run that is given more: replaced whole, never absent
                os.replace(fresh / "state.pt", folder / str(step) / "state.pt")
                fresh.rmdir()
            else:
                os.rename(fresh, folder / str(step))
        write_text(folder / LATEST, str(step))
        for old in self.steps[:-2]:
            if old not in keep and not (keep_every and old % keep_every == 0):
                shutil.rmtree(folder / str(old), ignore_errors=True)

    def state(self, step: int | None = None) -> dict[str, Any]:
        """The content of a checkpoint, on the CPU; the latest when no step is given."""
        step = self.step if step is None else step
        file = self.folder / "checkpoints" / str(step) / "state.pt"
        if not file.exists():
            have = ", ".join(map(str, self.steps)) or "none"
            raise UserError(f"{self.folder} has no checkpoint at step {step}; there are: {have}")
        return torch.load(file, map_location="cpu", weights_only=True)

    # Networks

    def untrained(self) -> Objective:
        """The objective as it was before the first step, rebuilt bit for bit from recipe and seed."""
        return construct(self.recipe, self.facts, self.folder / "tokenizer", self.folder / "start")

    def objective(self, step: int | None = None) -> Objective:
        """The objective at a checkpoint."""
        objective = self.untrained()
        objective.load_state_dict(self.state(step)["objective"])
        return objective

    def encoders(self, step: int | None = None) -> Mapping[str, Encoder]:
        """The encoders at a checkpoint; works while the run goes on."""
        return self.objective(step).encoders()

    def encoder(self, name: str | None = None) -> Encoder:
        """The encoder in `model/`: the default one when no name is given."""
        return load_encoder(self.folder, name)

    def save_model(self, objective: Objective) -> None:
        """Renew `model/` from the live objective, by rename."""
        fresh, place, old = (self.folder / name for name in ("model.new", "model", "model.old"))
        with writing(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
            save_encoders(objective, fresh)
            shutil.rmtree(old, ignore_errors=True)
            if place.exists():
                os.rename(place, old)
            os.rename(fresh, place)
            shutil.rmtree(old, ignore_errors=True)


def save_encoders(objective: Objective, folder: Path) -> None:
    """Write the encoders and predictors of an objective, each into a folder of its name."""
    for name, encoder in objective.encoders().items():
        encoder.save(folder / name)
    for predictor in objective.predictors():
        predictor.save(folder / predictor.kind)


def check_free(folder: Path) -> None:
    """Raise `UserError` unless a new run can go into this folder; leftovers of one killed before its start may stay."""
    if (folder / "run.json").exists():
        raise UserError(f"{folder} already holds a run; go on with selfsup resume {folder}, or give another --out")
    leftovers = {"tokenizer", "start", "run.json.new"}
    if folder.is_file() or (folder.exists() and {entry.name for entry in folder.iterdir()} - leftovers):
        raise UserError(f"{folder} is not empty and holds no run; give another --out")
    check_writable(folder)


def check_writable(path: Path) -> None:
    """Raise `UserError` unless a file or folder could be made here: said before the work, not after it."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"cannot write {path}: {above} is no folder that you may write to; give another --out")

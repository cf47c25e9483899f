"""Faults of the machine, in processes of their own: a full disk, no memory, a signal; over all verbs that write.

Each ends with its exit code and one line, and what was there before is there afterwards, as it was.
"""

from __future__ import annotations

import hashlib
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contract.processes import command, command_when, start
from selfsup import cli

PICTURES = shlex.split("--pixels 16 --hidden 8 --output 8 --batch 16 --steps 6 --save-every 2")
TEXT = shlex.split("--tokenizer byte --context 16 --layers 1 --heads 2 --width 16 --batch 4 --steps 6")


@pytest.fixture(scope="module")
def place(cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labelled` pictures, a text, and a run of each, whose data is prepared."""
    root = tmp_path_factory.mktemp("faults")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / "labelled" / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 256, (16, 16), np.uint8)
            Image.fromarray(pixels).save(root / "labelled" / name / f"{number}.png")
    (root / "words.txt").write_text(" ".join(generator.choice(["sun", "moon", "star"], 3000)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the children and the tests have it: sums depend on it
    assert cli.run(["train", "simclr", "--data", f"{root}/labelled", "--out", f"{root}/run", *PICTURES]) == 0
    assert cli.run(["train", "causal_lm", "--data", f"{root}/words.txt", "--out", f"{root}/lm", *TEXT]) == 0
    torch.set_num_threads(before)
    return root


def content(root: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its content."""
    return {
        str(path): hashlib.blake2b(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()
    }


def ended(child, log: Path, code: int) -> str:
    """The last line of a command that ends with this code, without a traceback."""
    child.join(120)
    said = log.read_text()
    assert child.exitcode == code, said
    assert "Traceback" not in said and "rror:" not in said.replace("selfsup: error:", ""), said
    return [line for line in said.splitlines() if line.startswith("selfsup: ")][-1]


# A full disk: no file may grow beyond so many bytes. {} is the folder above, {new} one of the test's own.
FULL = {
    "a store of pictures": (
        "train simclr --data {}/labelled --cache {new}/cache --out {new}/run " + " ".join(PICTURES), 4000, "--cache",
    ),
    "a store of text": (
        "train causal_lm --data {}/words.txt --cache {new}/cache --out {new}/run " + " ".join(TEXT), 4000, "--cache",
    ),
    "run.json": ("train simclr --data {}/labelled --out {new}/run " + " ".join(PICTURES), 500, "cannot write"),
    "a checkpoint": ("train simclr --data {}/labelled --out {new}/run " + " ".join(PICTURES), 20_000, "cannot write"),
    "the lines of eval": ("eval {}/run", 300, "cannot write"),
    "vectors": ("embed {}/run --data {}/labelled --out {new}/v.npy", 1000, "v.npy"),
    "vectors as a table": ("embed {}/run --data {}/labelled --out {new}/v.parquet", 1000, "v.parquet"),
    "classes": ("classify {}/run {}/labelled --like {}/labelled --out {new}/c.csv", 700, "cannot write"),
    "an export": ("export {}/run {new}/out", 5000, "cannot write"),
    "an export of text": ("export {}/lm {new}/out", 5000, "cannot write"),
    "more steps": ("resume {}/run --more 4", 20_000, "cannot write"),
}  # fmt: skip


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk(case: str, place: Path, tmp_path: Path) -> None:
    words, most, part = FULL[case]
    before = content(place)
    log = tmp_path / "log"
    child = start(command, words.replace("{new}", str(tmp_path / "new")).replace("{}", str(place)).split(), log, most)
    line = ended(child, log, 2)
    assert part in line and len(line) < 400, line
    after = content(place)
    changed = {name for name in before if after.get(name) != before[name]}
    assert {Path(name).name for name in changed} <= {"run.json", "metrics.jsonl", "evals.jsonl"}, changed
    assert {Path(name).parts[len(place.parts)] for name in after.keys() - before.keys()} <= {"run"}
    assert cli.run(["embed", f"{place}/run", "--data", f"{place}/labelled", "--out", f"{tmp_path}/again.npy"]) == 0


def test_the_run_that_met_a_full_disk_goes_on(place: Path, tmp_path: Path) -> None:
    words = ["train", "simclr", "--data", f"{place}/labelled", "--out", f"{tmp_path}/run", *PICTURES]
    whole = ["train", "simclr", "--data", f"{place}/labelled", "--out", f"{tmp_path}/whole", *PICTURES]
    log = tmp_path / "log"
    ended(start(command, words, log, 1_000_000), log, 2)  # the checkpoints fit, the weights with their state do not
    if (tmp_path / "run" / "run.json").exists():
        assert cli.run(["resume", f"{tmp_path}/run"]) == 0
    else:
        assert cli.run(words) == 0
    assert cli.run(whole) == 0
    first, second = (tmp_path / name / "model" / "image" / "model.safetensors" for name in ("run", "whole"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("words", "relief"),
    [
        ("train simclr --data {}/labelled --hidden 300000 --output 300000 --batch 16 --steps 2", "a smaller --size"),
        ("train causal_lm --data {}/words.txt --layers 1 --heads 2 --width 60000 --steps 2", "a smaller --size"),
    ],
)
def test_no_memory(words: str, relief: str, place: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = start(command, [*words.replace("{}", str(place)).split(), "--out", f"{tmp_path}/run"], log, None, 1 << 31)
    line = ended(child, log, 2)
    assert "out of memory" in line and relief in line
    assert not (tmp_path / "run").exists()


# Where, and at which call.
SIGNALS = {
    "building a store": ("selfsup.data.squares:Squares.write", 1),
    "training": ("selfsup.loop:Training.step", 2),
    "saving": ("selfsup.run:Run.save", 2),
    "looking": ("selfsup.checks:Checks.look", 2),
}


@pytest.mark.parametrize(
    ("phase", "number"), [*((phase, signal.SIGTERM) for phase in SIGNALS), ("training", signal.SIGINT)]
)
def test_a_signal_in_each_phase(phase: str, number: int, place: Path, tmp_path: Path) -> None:
    """It ends with 128 and the number of the signal; the run goes on to what it would have been."""
    words = ["train", "simclr", "--data", f"{place}/labelled", "--out", f"{tmp_path}/run", *PICTURES]
    words += ["--cache", f"{tmp_path}/cache"] if phase == "building a store" else []
    log = tmp_path / "log"
    child = start(command_when, words, log, *SIGNALS[phase], int(number))
    child.join(120)
    said = log.read_text()
    assert child.exitcode == 128 + number and "Traceback" not in said, said
    assert not list(tmp_path.rglob("*.building"))
    again = ["resume", f"{tmp_path}/run"] if (tmp_path / "run" / "run.json").exists() else words
    assert cli.run(again) == 0
    first, second = (folder / "run" / "model" / "image" / "model.safetensors" for folder in (tmp_path, place))
    assert first.read_bytes() == second.read_bytes()

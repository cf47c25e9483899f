"""Runs broken on purpose: the doctor names what was done to each, and finds nothing in healthy ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import selfsup
from selfsup import cli
from selfsup.eval.doctor import examine
from selfsup.eval.findings import Signs, diagnose
from selfsup.eval.health import word_order
from selfsup.objective import Limit

WATCH = {"held_out_rows": 64, "check_every": 10}
PICTURES = {
    "pixels": 16, "hidden": 32, "output": 16, "batch": 64, "steps": 40, "flip": 0.0, "precision": "float32", **WATCH,
}  # fmt: skip
WORDS = {"tokenizer": "byte", "context": 32, "layers": 2, "heads": 2, "width": 32, "batch": 16, "steps": 60}
TEACHER = str(Path(__file__).parent / "teacher.py")


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A text in its order and the same words shuffled."""
    root = tmp_path_factory.mktemp("prose")
    subjects, verbs, objects = (
        ["the old man", "a child", "my neighbor", "the queen"], ["saw", "wanted to buy", "could not find", "painted"],
        ["a red door", "the long road", "his hat", "some bread in the morning"],
    )  # fmt: skip
    choose = np.random.default_rng(0)
    text = " ".join(f"{choose.choice(subjects)} {choose.choice(verbs)} {choose.choice(objects)}." for _ in range(1500))
    (root / "good.txt").write_text(text)
    words = np.array(text.split())
    (root / "shuffled.txt").write_text(" ".join(choose.permutation(words)))
    return root / "good.txt", root / "shuffled.txt"


def findings(name: str, out: Path, **settings: object) -> dict[str, str]:
    """What is found in a run with these settings: check -> sentence."""
    run = selfsup.train(selfsup.recipe(name, **settings), out, quiet=True)
    found = examine(run.folder, quiet=True).findings
    assert all("\n" not in finding.said for finding in found)
    return {finding.check: finding.said for finding in found}


# Healthy runs of every objective: `tests/contract`.


def test_healthy_pictures(tmp_path: Path) -> None:
    assert findings("simclr", tmp_path / "run", data="sample:digits", **PICTURES) == {}


def test_healthy_text(tmp_path: Path, prose: tuple[Path, Path]) -> None:
    assert findings("causal_lm", tmp_path / "run", data=prose[0], **WORDS) == {}


def test_healthy_teacher(tmp_path: Path) -> None:
    assert findings(TEACHER, tmp_path / "run", **WATCH) == {}


def test_rate_a_hundred_times_too_high_for_pictures(tmp_path: Path) -> None:
    found = findings("simclr", tmp_path / "run", data="sample:digits", rate=0.2, matrix_rate=2.0, clip=0.0, **PICTURES)
    assert "rate is too high" in found["rate"] and "--rate 0.02 --matrix-rate 0.2" in found["rate"]


def test_rate_a_hundred_times_too_high_for_text(tmp_path: Path, prose: tuple[Path, Path]) -> None:
    found = findings("causal_lm", tmp_path / "run", data=prose[0], rate=0.4, matrix_rate=2.0, **WORDS)
    assert "rate is too high" in found["rate"] and "--rate 0.04 --matrix-rate 0.2" in found["rate"]


def test_temperature_of_ten(tmp_path: Path) -> None:
    found = findings("simclr", tmp_path / "run", data="sample:digits", temperature=10.0, **PICTURES)
    assert "--temperature 10" in found["temperature"] and "try 1" in found["temperature"]


def test_batch_of_two(tmp_path: Path) -> None:
    found = findings("simclr", tmp_path / "run", data="sample:digits", **{**PICTURES, "batch": 2})
    assert "--batch 2" in found["batch"] and "try 64" in found["batch"]


def test_constant_pictures(tmp_path: Path) -> None:
    (tmp_path / "gray").mkdir()
    for number in range(80):
        np.save(tmp_path / "gray" / f"{number}.npy", np.full((16, 16), 120, np.uint8))
    pictures = np.full((80, 16, 16, 3), 120, np.uint8)
    run = selfsup.train(selfsup.recipe("simclr", **PICTURES), tmp_path / "run", data=pictures, quiet=True)
    from PIL import Image

    (tmp_path / "flat").mkdir()
    for number in range(80):
        Image.fromarray(pictures[number]).save(tmp_path / "flat" / f"{number}.png")
    found = findings("simclr", tmp_path / "again", data=tmp_path / "flat", **PICTURES)
    assert "all but constant" in found["contrast"] and "--data" in found["contrast"]
    # Objects that were given in Python cannot be looked at again; what the log says still is.
    assert examine(run.folder, quiet=True).vitals.keys() >= {"loss", "growth"}


def test_copies(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16), np.uint8)
    for number in range(100):
        Image.fromarray(noise[number % 20]).save(tmp_path / f"{number}.png")
    found = findings("simclr", tmp_path / "runs" / "run", data=tmp_path, **{**PICTURES, "steps": 4})
    assert "copies of others" in found["copies"]


def test_shuffled_text(tmp_path: Path, prose: tuple[Path, Path]) -> None:
    found = findings("causal_lm", tmp_path / "run", data=prose[1], **WORDS)
    assert "as if shuffled" in found["word order"]


def test_word_order_of_any_text(prose: tuple[Path, Path]) -> None:
    good, shuffled = (file.read_text() for file in prose)
    assert (word_order(good) or 0) > 5 and 0.9 < (word_order(shuffled) or 0) < 1.1
    assert word_order("too short to tell") is None
    signs = "".join(chr(0x4E00 + number) for number in range(400))
    generator = np.random.default_rng(0)
    sentences = [signs[i : i + 5] for i in generator.integers(0, 395, 1000)]
    assert (word_order("".join(sentences)) or 0) > 2  # no spaces: by characters
    letters = "".join(generator.permutation(list("".join(sentences))))
    assert 0.9 < (word_order(letters) or 0) < 1.1


def test_teacher_without_momentum(tmp_path: Path) -> None:
    found = findings(TEACHER, tmp_path / "run", teacher_momentum=0.0, steps=20, **WATCH)
    assert "--teacher-momentum 0" in found["teacher_momentum"] and "try 0.9" in found["teacher_momentum"]


@pytest.mark.parametrize(("temperature", "said"), [(50.0, "the same of everything"), (1e-5, "always names one")])
def test_teacher_that_says_nothing(tmp_path: Path, temperature: float, said: str) -> None:
    assert (
        said
        in findings(TEACHER, tmp_path / "run", teacher_temperature=temperature, steps=30, **WATCH)["teacher entropy"]
    )


# Single checks, on made-up signs


def signs(**changes: object) -> Signs:
    """Of a healthy run, changed."""
    metrics = [{"step": s, "loss": 3.0, "trivial": 5.0, "grad_norm": 1.0, "wait": 0.0} for s in range(1, 9)]
    held_out = [{"step": s, "mean": 3.0, "chance": 5.0} for s in range(1, 9)]
    vitals = {"effective rank": 30.0, "width": 128.0, "distinct": 0.5}
    return replace(Signs(selfsup.recipe("simclr"), 1.0, metrics, held_out, vitals, {}), **changes)


def names(found: Signs) -> list[str]:
    return [finding.check for finding in diagnose(found)]


def with_metric(name: str, value: float) -> Signs:
    return signs(metrics=[{**line, name: value} for line in signs().metrics])


def test_signs_of_health() -> None:
    assert names(signs()) == []


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (with_metric("loss", 4.99), "loss"),
        (with_metric("loss", 50.0), "loss"),
        (with_metric("wait", 0.4), "data wait"),
        (with_metric("grad_norm", 1e-9), "gradient"),
        (with_metric("grad_norm", 1e4), "gradient"),
        (with_metric("teacher_entropy", 1.0), "teacher entropy"),
        (with_metric("teacher_entropy", 0.0), "teacher entropy"),
        (signs(vitals={"effective rank": 1.5, "width": 128.0, "distinct": 0.5}), "effective rank"),
        (signs(vitals={"effective rank": 30.0, "width": 128.0, "distinct": 1e-4}), "collapse"),
        (signs(vitals={"step size": 3.0}), "rate"),
        (signs(vitals={"step size": 1e-8}), "rate"),
        (signs(held_out=[{"step": s, "mean": 2.0 + s, "chance": 5.0} for s in range(8)]), "held-out loss"),
        (signs(limits={"batch": Limit(1024, math.inf, "too few")}), "batch"),
    ],
)  # fmt: skip
def test_one_sign_one_finding(broken: Signs, check: str) -> None:
    assert names(broken) == [check]


def test_a_loss_that_has_not_moved_yet_is_no_finding() -> None:
    early = replace(with_metric("loss", 4.99), progress=0.1)
    assert names(early) == []


def test_too_low_and_too_high_are_told_apart() -> None:
    low, high = (diagnose(with_metric("loss", value))[0].said for value in (4.99, 50.0))
    assert "too few steps" in low and "run off" in high


# The verb, and what is said while a run goes on


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = selfsup.train(selfsup.recipe("simclr", data="sample:digits", **{**PICTURES, "batch": 8, "steps": 8}),
                        tmp_path / "run", quiet=True)  # fmt: skip
    capsys.readouterr()
    assert cli.run(["doctor", str(run.folder)]) == 0
    shown = capsys.readouterr().out
    for sign in ("loss", "effective rank", "spread", "mean cosine", "alignment", "uniformity", "gradient norm"):
        assert any(line.startswith(sign) for line in shown.splitlines()), sign
    assert "batch: --batch 8" in shown
    assert cli.run(["doctor", str(run.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["check"] == "batch"


def test_findings_are_said_during_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = selfsup.recipe("simclr", data="sample:digits", **{**PICTURES, "batch": 8, "steps": 20, "check_every": 2})
    selfsup.train(recipe, tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("doctor")]
    assert len([line for line in said if "--batch 8" in line]) == 1, "once, before the first step"
    lines = [line for line in selfsup.Run(tmp_path / "run").lines("evals.jsonl") if line["task"] == "health"]
    assert len(lines) == 10 and all(line["mean"] == line["effective rank"] > 1 for line in lines)

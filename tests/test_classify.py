"""`classify`: a class for every file, like labelled examples."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

import selfsup
from selfsup import classify as verb
from selfsup import cli
from selfsup.data.samples import load_sample
from selfsup.eval import fine_tune

pytestmark = pytest.mark.usefixtures("short_fits")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in class folders, `labelled`, others without labels, `files`, one of them broken; and a run."""
    root = tmp_path_factory.mktemp("classify")
    part = load_sample("digits")["train"]
    for number, (image, label) in enumerate(zip(part["image"][:500], part["label"][:500], strict=True)):
        folder = root / "files" if number >= 400 else root / "labelled" / label
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{label}-{number}.png"
        Image.fromarray(image).save(folder / name)
    (root / "files" / "9-broken.png").write_bytes(b"no picture")
    recipe = selfsup.recipe(
        "simclr", data=root / "labelled", pixels=16, hidden=16, output=8, batch=64, steps=30, flip=0.0
    )
    selfsup.train(recipe, root / "run", quiet=True)
    return root


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as source:
        return list(csv.DictReader(source))


def test_pictures(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"classify {place}/run {place}/files --like {place}/labelled --out {place}/new/labels.csv"
    assert cli.run(words.split()) == 0
    assert capsys.readouterr().out == f"{place}/new/labels.csv\n"
    found = rows(place / "new" / "labels.csv")
    assert [row["name"] for row in found] == [str(file) for file in sorted((place / "files").iterdir())]
    broken = [row for row in found if row["name"].endswith("broken.png")]
    assert [(row["label"], row["probability"]) for row in broken] == [("", "")]
    whole = [row for row in found if row not in broken]
    assert all(0.1 < float(row["probability"]) <= 1 for row in whole)
    assert sum(Path(row["name"]).name[0] == row["label"] for row in whole) > 0.7 * len(whole)


def test_the_network_that_eval_fine_tuned_is_used(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "MIN_STEPS", 25)
    shutil.copytree(place / "run", tmp_path / "run")
    scores = selfsup.evaluate(tmp_path / "run", place / "labelled", labels=("5", "100%"), fine_tune=True, quiet=True)
    (tuned,) = [
        row["mean"]
        for row in scores
        if row["task"] == "fine-tune" and row["representation"] == "run" and row["labels"] == 1.0
    ]
    with caplog.at_level("INFO", "selfsup"):
        verb.classify(tmp_path / "run", place / "labelled", place / "labelled", tmp_path / "all.csv", quiet=True)
        verb.classify(place / "run", place / "labelled", place / "labelled", tmp_path / "probe.csv", quiet=True)
    said = [record.message for record in caplog.records if "fine-tuned" in record.message]
    assert len(said) == 1 and f"accuracy {tuned:.3f}" in said[0]
    found, probed = rows(tmp_path / "all.csv"), rows(tmp_path / "probe.csv")
    assert [row["probability"] for row in found] != [row["probability"] for row in probed]
    assert sum(Path(row["name"]).name[0] == row["label"] for row in found) > 0.5 * len(found)


def test_the_probe_of_eval_is_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    selfsup.evaluate(place / "run", place / "labelled", labels=("100%",), quiet=True)
    monkeypatch.setattr(verb, "fit_linear", lambda *_: pytest.fail("fitted again"))
    verb.classify(place / "run", place / "files", place / "labelled", place / "again.csv", quiet=True)
    assert len(rows(place / "again.csv")) == 101


def test_an_export_classifies_like_its_run(place: Path) -> None:
    selfsup.export(place / "run", place / "out")
    for name, network in (("run", place / "run"), ("export", place / "out" / "image")):
        verb.classify(network, place / "files", place / "labelled", place / f"{name}.csv", quiet=True)
    labels = [[row["label"] for row in rows(place / f"{name}.csv")] for name in ("run", "export")]
    assert sum(a == b for a, b in zip(*labels, strict=True)) > 95  # prepared at a resolution of its own


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("the sun is warm and the moon is cold. " * 100)
    recipe = selfsup.recipe(
        "causal_lm",
        data=tmp_path / "some.txt",
        tokenizer="char",
        context=16,
        layers=1,
        heads=2,
        width=16,
        batch=4,
        steps=4,
    )
    selfsup.train(recipe, tmp_path / "run", quiet=True)
    like = [f"{'sun sun ' * n},warm\n{'moon moon ' * n},cold\n" for n in range(1, 40)]
    (tmp_path / "like.csv").write_text("body,kind\n" + "".join(like))
    (tmp_path / "new.csv").write_text("body,id\nsun sun sun,1\nmoon moon,2\n")
    columns = ("text=body", "label=kind")
    (tmp_path / "plain").mkdir()  # files have no columns of their own
    for name, text in (("1.txt", "sun sun sun"), ("2.txt", "moon moon")):
        (tmp_path / "plain" / name).write_text(text)
    for data in ("new.csv", "plain"):
        verb.classify(tmp_path / "run", tmp_path / data, tmp_path / "like.csv", tmp_path / "c.csv", columns, quiet=True)
        assert [row["label"] for row in rows(tmp_path / "c.csv")] == ["warm", "cold"]

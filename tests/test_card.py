"""The report card: few labels, baselines, intervals, and a verdict that cannot be talked into anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import KNeighborsClassifier

import selfsup
from selfsup.data.samples import load_sample
from selfsup.eval import card, probes
from selfsup.eval.few_labels import Level
from selfsup.eval.labelled import Labelled, open_labelled
from selfsup.eval.language import saved
from selfsup.eval.other_view import found_again
from selfsup.eval.tfidf import TfIdf
from selfsup.eval.verdict import Gain, gains, interval, sentence
from selfsup.progress import Progress
from selfsup.recipes import ImageData, TextData

pytestmark = pytest.mark.usefixtures("short_fits")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labelled` and `shuffled` digits in class folders, and a short run on them, `run`."""
    root = tmp_path_factory.mktemp("card")
    images, labels = (load_sample("digits")["train"][column][:600] for column in ("image", "label"))
    order = np.random.default_rng(0).permutation(len(labels))
    for place, given in (("labelled", labels), ("shuffled", [labels[i] for i in order])):
        for number, (image, label) in enumerate(zip(images, given, strict=True)):
            (root / place / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / place / label / f"{number}.png")
    recipe = selfsup.recipe(
        "simclr", data=root / "labelled", pixels=16, hidden=32, output=16, batch=64, steps=60, flip=0.0, seed=3
    )
    selfsup.train(recipe, root / "run", quiet=True)
    return root


# Amounts of labels


@pytest.mark.parametrize(
    ("text", "level"), [("1%", Level(share=0.01)), ("100%", Level(share=1.0)), ("5", Level(per_class=5))]
)
def test_level_is_parsed(text: str, level: Level) -> None:
    assert Level.parse(text) == level


@pytest.mark.parametrize("text", ["", "%", "0%", "101%", "0", "-3", "2.5", "many", "nan%"])
def test_level_is_refused(text: str) -> None:
    with pytest.raises(selfsup.UserError, match="10%"):
        Level.parse(text)


def test_levels_are_drawn_by_class() -> None:
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 3)
    tenth = Level(share=0.1)
    rows = tenth.rows(labels, 0)
    assert torch.bincount(labels[rows]).tolist() == [10, 4, 1]  # at least one of each
    assert rows.unique().equal(rows) and rows.equal(tenth.rows(labels, 0)) and not rows.equal(tenth.rows(labels, 1))
    assert torch.bincount(labels[Level(per_class=3).rows(labels, 0)]).tolist() == [3, 3, 3]
    assert Level(share=1.0).rows(labels, 7).tolist() == list(range(143))
    assert tenth.fits(labels, 3) and not Level(share=0.01).fits(labels, 3)
    assert Level(per_class=3).fits(labels, 3) and not Level(per_class=4).fits(labels, 3)


# The verdict


def test_interval_holds_what_it_promises() -> None:
    """Two representations of equal worth: among 400 repetitions the interval misses 0 about as often as allowed."""
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(400):
        skill = torch.rand(300, generator=generator)  # of the test rows, the same for both
        run, other = (torch.rand(5, 300, generator=generator) < skill for _ in range(2))
        mean, half = interval(run, other, error=0.1)
        missed += abs(mean) > half
    assert missed <= 52, missed  # 40 expected at most, sd 6


def test_interval_grows_with_what_is_uncertain() -> None:
    same = torch.ones(1, 100, dtype=torch.bool)
    assert interval(same, same, 0.05) == (0.0, 0.0)
    worse = same.clone()
    worse[0, :50] = False
    mean, half = interval(same, worse, 0.05)
    assert mean == 0.5 and half == pytest.approx(1.96 * 0.5025 / 10, rel=1e-3)
    uneven = torch.stack([same[0], worse[0]])  # one draw of labels went well, the other did not
    assert interval(uneven, torch.stack([worse[0]] * 2), 0.05)[1] > 3 * half


def test_sentence_says_what_the_intervals_allow() -> None:
    found = [
        Gain("at 1 % of the labels", "raw", 21.0, 2.0), Gain("at 10 % of the labels", "untrained", 0.4, 1.0),
        Gain("at 100 % of the labels", "start", -3.0, 1.0),
    ]  # fmt: skip
    worth, said = sentence(found)
    assert worth and said.startswith("worth it: +21.0 ± 2.0 points at 1 % of the labels, over the raw input; ")
    assert "nothing gained at 10 % of the labels (+0.4 ± 1.0 points against the untrained network)" in said
    assert said.endswith("-3.0 ± 1.0 points at 100 % of the labels: the start is better")
    assert sentence(found[1:])[1].startswith("not worth it: ")


def test_gains_compare_with_the_best_alternative() -> None:
    right = {"run": 0.8, "raw": 0.5, "untrained": 0.7, "chance": 0.1}
    answers = {who: (torch.arange(1000) < 1000 * share)[None] for who, share in right.items()}
    (gain,) = gains({"here": answers})
    assert gain.over == "untrained" and gain.mean == pytest.approx(10) and gain.kind == "gain"


def verdict(rows: list[dict]) -> str:
    assert rows[-1]["task"] == "verdict" and rows[-1]["mean"] == float(rows[-1]["text"].startswith("worth it"))
    return rows[-1]["text"]


def test_shuffled_labels_are_not_worth_it(digits: Path) -> None:
    rows = selfsup.evaluate(digits / "run", digits / "shuffled", labels=("10%", "3", "100%"), quiet=True)
    assert verdict(rows).startswith("not worth it: ")
    assert all(row["mean"] < 0.25 for row in rows[:-1])


def test_an_untrained_network_is_not_worth_it(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(run: selfsup.Run) -> dict[str, selfsup.Encoder]:
        return {who: next(iter(run.untrained().encoders().values())) for who in ("run", "untrained")}

    monkeypatch.setattr(probes, "encoders_of", swapped)
    rows = selfsup.evaluate(digits / "run", digits / "labelled", labels=("10%", "100%"), quiet=True)
    assert verdict(rows).startswith("not worth it: ")


def test_an_oracle_is_worth_it(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class itself, with noise, as the feature: the verdict finds what is there."""
    made = probes.representations

    def oracle(run: selfsup.Run, labelled: Labelled) -> dict:
        features = [
            torch.nn.functional.one_hot(labels, 10) + 0.1 * torch.randn(len(labels), 10, generator=generator)
            for labels in (labelled.labels, labelled.test_labels)
            for generator in [torch.Generator().manual_seed(len(labels))]
        ]
        return {**made(run, labelled), "run": lambda: probes.Features(*features, labelled)}

    monkeypatch.setattr(card, "representations", oracle)
    rows = selfsup.evaluate(digits / "run", digits / "labelled", labels=("10%",), quiet=True)
    assert verdict(rows).startswith("worth it: +")


def test_no_labels(digits: Path, tmp_path: Path) -> None:
    """Pictures in one folder: found by another view, better than chance and than an untrained network."""
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(sorted((digits / "labelled").rglob("*.png"))[::3]):
        (tmp_path / "flat" / f"{number}.png").write_bytes(file.read_bytes())
    rows = selfsup.evaluate(digits / "run", tmp_path / "flat", quiet=True)
    found = {row["representation"]: row["mean"] for row in rows if row["metric"] == "R@1 accuracy"}
    assert found.keys() == {"run", "untrained", "raw"} and found["run"] > max(found["untrained"], 0.05)
    ranks = {row["representation"]: row["mean"] for row in rows if row["metric"] == "effective rank"}
    assert ranks.keys() == {"run", "untrained"} and all(1 <= rank <= 128 for rank in ranks.values())
    assert "another view" in verdict(rows)
    (own,) = [row for row in rows if row["task"] == "own task"]
    watched = [line for line in selfsup.Run(digits / "run").lines("evals.jsonl") if line["task"] == "pretext"]
    assert (own["mean"], own["chance"]) == (watched[-1]["mean"], watched[-1]["chance"])


def test_finding_other_views_counts_right() -> None:
    first = np.arange(40, dtype=np.uint8).reshape(10, 1, 1, 4)
    one_hot = torch.eye(10)
    assert found_again(lambda view: one_hot[view[:, 0, 0, 0].astype(int) // 4], [first, first]).all()
    assert not found_again(lambda view: one_hot[view[:, 0, 0, 0].astype(int) // 4], [first, np.roll(first, 1, 0)]).any()


def test_continued_pretraining_is_compared_with_its_start(digits: Path, tmp_path: Path) -> None:
    recipe = selfsup.recipe(
        "simclr", data=digits / "labelled", pixels=16, hidden=8, output=8, batch=64, steps=2, init=str(digits / "run")
    )
    selfsup.train(recipe, tmp_path / "more", quiet=True)
    rows = selfsup.evaluate(tmp_path / "more", labels=("100%",), quiet=True)
    knn = {row["representation"]: row["mean"] for row in rows if row["task"] == "knn"}
    assert knn.keys() == {"run", "untrained", "start", "raw"}
    before = selfsup.evaluate(digits / "run", labels=("100%",), quiet=True)
    assert knn["start"] == next(r["mean"] for r in before if (r["task"], r["representation"]) == ("knn", "run"))


def test_fine_tuning_beside_scratch(digits: Path) -> None:
    before = {name: value.clone() for name, value in selfsup.load(digits / "run").module.state_dict().items()}
    rows = selfsup.evaluate(digits / "run", digits / "labelled", labels=("100%",), fine_tune=True, quiet=True)
    tuned = {row["representation"]: row["mean"] for row in rows if row["task"] == "fine-tune"}
    assert tuned.keys() == {"run", "scratch"} and min(tuned.values()) > 0.7
    assert "fine-tuned" in verdict(rows)
    after = selfsup.load(digits / "run").module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# Texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`labelled` texts of two kinds, told apart by a word, and a short run, `run`."""
    root = tmp_path_factory.mktemp("texts")
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(50)]
    for part, count in (("train", 200), ("test", 100)):
        (root / "labelled").mkdir(exist_ok=True)
        lines = ["text,label"]
        for _ in range(count):
            label = ("sun", "moon")[generator.integers(2)]
            lines.append(" ".join([*generator.choice(words, 6), label, *generator.choice(words, 6)]) + f",{label}")
        (root / "labelled" / f"{part}.csv").write_text("\n".join(lines) + "\n")
    text = ((root / "labelled" / "train.csv").read_text()).replace(",", " ")
    (root / "some.txt").write_text(text)
    recipe = selfsup.recipe(
        "causal_lm", data=root / "some.txt", tokenizer="byte", context=32, layers=1, heads=2, width=16, batch=8, steps=5
    )
    selfsup.train(recipe, root / "run", quiet=True)
    return root


def test_texts_with_labels(texts: Path) -> None:
    rows = selfsup.evaluate(texts / "run", texts / "labelled", labels=("10%", "100%"), quiet=True)
    assert {row["task"] for row in rows} == {"knn", "linear", "verdict"}
    raw = {(row["task"], row["labels"]): row["mean"] for row in rows if row["representation"] == "raw"}
    assert raw["linear", 1.0] > 0.95  # the word itself gives it away
    assert verdict(rows).startswith("not worth it: ") and "the raw input is better" in verdict(rows)
    fine = selfsup.evaluate(texts / "run", texts / "labelled", labels=("100%",), fine_tune=True, quiet=True)
    assert {row["representation"] for row in fine if row["task"] == "fine-tune"} == {"run", "scratch"}


def test_tf_idf_equals_scikit_learn(texts: Path) -> None:
    labelled = open_labelled(TextData(source=str(texts / "labelled")), None, 0, Progress(False))
    assert labelled is not None and isinstance(labelled.train, list) and labelled.split == "test"
    ours = TfIdf(labelled)
    pattern = r"(?u)\w+|[^\w\s]"
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=pattern).fit(labelled.train)
    x, y = (vectorizer.transform(part).toarray() for part in (labelled.train, labelled.test))
    vote = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = vote.fit(x, labelled.labels.numpy()).predict(y)
    assert (ours.knn().numpy() != expected).mean() < 0.03  # ties
    rows = torch.arange(len(labelled.labels))
    ours.choose(rows, 0)
    assert float((ours.linear(rows, 0) == labelled.test_labels).double().mean()) > 0.95


def test_bits_saved() -> None:
    sums = {"run": np.array([1.0, 2.0, 3.0]), "a": np.array([2.0, 3.0, 4.0]), "b": np.array([9.0, 9.0, 9.0])}
    gain = saved(sums, size=10)
    assert gain.over == "a" and gain.mean == pytest.approx(3 / np.log(2) / 10) and gain.half == pytest.approx(0)
    assert gain.kind == "gain" and "bits per byte saved on held-out text" in str(gain)


# Labelled data as users have it


def test_without_a_test_part_one_in_five_is_scored(digits: Path) -> None:
    settings = ImageData(source=str(digits / "labelled"))
    found = open_labelled(settings, None, 18, Progress(False))
    assert found is not None and found.split == "one in five by content" and len(found.classes) == 10
    assert 0.1 < len(found.test_labels) / 600 < 0.3 and len(found.test_labels) + len(found.labels) == 600
    again = open_labelled(settings, None, 18, Progress(False))
    assert again is not None and again.identity == found.identity and again.test_labels.equal(found.test_labels)
    some = found.sample(50, 20)
    assert len(some.labels) == len(some.train) == 50 and len(some.test_labels) == len(some.test) == 20
    assert some.chance == pytest.approx(float(torch.bincount(some.test_labels).max()) / 20)


def test_labels_come_as_a_table_too(digits: Path, tmp_path: Path) -> None:
    files = sorted((digits / "labelled").rglob("*.png"))
    rows = [f"{file},{file.parent.name}" for file in files]
    (tmp_path / "labels.csv").write_text("\n".join(["photo,kind", *rows]) + "\n")
    settings = ImageData(source=str(tmp_path / "labels.csv"), columns=("image=photo", "label=kind"))
    table = open_labelled(settings, None, 18, Progress(False))
    folders = open_labelled(ImageData(source=str(digits / "labelled")), None, 18, Progress(False))
    assert table is not None and folders is not None and table.classes == folders.classes
    assert table.labels.equal(folders.labels) and table.test_labels.equal(folders.test_labels)


def test_classes_that_only_the_test_part_has_are_left_out(digits: Path, tmp_path: Path, caplog) -> None:
    for part, classes in (("train", "01"), ("test", "0129")):
        for name in classes:
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / name).symlink_to(digits / "labelled" / name)
    found = open_labelled(ImageData(source=str(tmp_path)), None, 18, Progress(False))
    assert found is not None and found.classes == ("0", "1") and set(found.test_labels.tolist()) == {0, 1}
    assert "left out: ['2', '9']" in caplog.text


def test_everything_is_logged(digits: Path) -> None:
    rows = selfsup.evaluate(digits / "run", labels=("100%",), quiet=True)
    logged = [json.loads(line) for line in (digits / "run" / "evals.jsonl").read_text().splitlines()]
    assert logged[-len(rows) :] == rows

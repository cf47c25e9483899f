"""Several runs on several label sets: who is better, which layer, what is refused, and what is not done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import captioned
import selfsup
from selfsup import cli, training
from selfsup.compare import compare
from selfsup.data.samples import load_sample
from selfsup.encoder import Encoder
from selfsup.errors import UserError
from selfsup.eval import fine_tune, linear
from selfsup.eval.entrants import Entrant, entrants_of
from selfsup.eval.features import Features
from selfsup.eval.labelled import Labelled
from selfsup.eval.layers import best_layer, shows_layers
from selfsup.eval.ledger import Ledger, packed, unpacked
from selfsup.eval.panel import panels_of, short_names
from selfsup.eval.probes import answers, linear_score
from selfsup.eval.standing import standing
from selfsup.eval.transfer import ALL, Transfer
from selfsup.image_encoder import ImageEncoder
from selfsup.image_network import chosen
from selfsup.progress import Progress

QUIET = Progress(False)
PICTURES = {"pixels": 16, "hidden": 8, "output": 8, "batch": 32}
TEXT = {"tokenizer": "byte", "context": 16, "layers": 2, "heads": 2, "width": 16, "batch": 8, "steps": 3}
SUBJECTS = ("king queen prince crown", "cat mat dog rug")


def no_pictures(*_: object) -> None:
    """In place of the pictures in a run's folder, which take longer than all else."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of few steps: who is compared with whom is what is tested here."""
    monkeypatch.setattr(linear, "MIN_STEPS", 30)
    monkeypatch.setattr(linear, "SETTINGS", [(1e-1, 0.0), (1e-2, 0.0)])
    monkeypatch.setattr(fine_tune, "MIN_STEPS", 4)
    monkeypatch.setattr(fine_tune, "EPOCHS", 1)
    monkeypatch.setattr(training, "report", no_pictures)


# By hand


class Told(Encoder):
    """Reads texts such as `train 3`, a part and a class; how well a layer knows the class is given for each part."""

    kind = "text"

    def __init__(self, *known: tuple[float, float]) -> None:
        self.module, self.known = nn.Linear(1, 1), known

    def _layer(self, samples: Sequence[str], known: tuple[float, float], seed: int) -> Tensor:
        parts, classes = zip(*(text.split() for text in samples), strict=True)
        share = torch.tensor([known[part == "test"] for part in parts])
        noise = torch.randn(len(samples), 3, generator=torch.Generator().manual_seed(seed))
        return 4 * share[:, None] * torch.eye(3)[[int(one) for one in classes]] + noise

    def encode(self, samples: Sequence[str]) -> Tensor:
        return self._layer(samples, self.known[-1], len(self.known))

    def layers(self, samples: Sequence[str]) -> list[Tensor]:
        return [self._layer(samples, known, number) for number, known in enumerate(self.known, 1)]

    def vectors(self, samples: Sequence[str]) -> Tensor:
        return self.encode(samples)

    def fresh(self, seed: int) -> Encoder:
        return Told((0.0, 0.0))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def told() -> Labelled:
    """300 and 200 texts of three classes."""
    labels = [torch.arange(count) % 3 for count in (300, 200)]
    texts = [[f"{part} {one}" for one in of.tolist()] for part, of in zip(("train", "test"), labels, strict=True)]
    return Labelled("told", "test", "told", ("a", "b", "c"), texts[0], labels[0], texts[1], labels[1])


def entrant(name: str, representation: str, *known: tuple[float, float]) -> Entrant:
    encoder = Told(*known)
    return Entrant(name, representation, f"{name} {known}", lambda labelled: Features.of(encoder, labelled), encoder)


def transferred(told: Labelled, one: Entrant, ledger: Ledger) -> Transfer:
    found = Transfer(one, told, ledger, str, QUIET)
    found.knn()
    found.linear(ALL)
    found.best_layer()
    found.rank()
    return found


def test_the_better_one_is_best(told: Labelled) -> None:
    ledger = Ledger(None)
    good = transferred(told, entrant("good", "run", (1.0, 1.0)), ledger)
    bad = transferred(told, entrant("bad", "run", (0.2, 0.2)), ledger)
    none = transferred(told, entrant("untrained", "untrained", (0.0, 0.0)), ledger)
    found = standing(told, {"bad": bad.scores, "good": good.scores}, {"untrained": none.scores})
    assert (found.best, found.worth) == ("good", True)
    assert found.said.startswith("best of 2 is good (+") and "against bad); worth it: +" in found.said
    nothing = standing(told, {"bad": none.scores}, {"untrained": good.scores})
    assert (nothing.best, nothing.worth) == ("bad", False)
    assert nothing.said.startswith("bad; not worth it: -") and "is better" in nothing.said
    same = standing(told, {"one": good.scores, "two": good.scores}, {"untrained": none.scores})
    assert "(+0.0 ± 0.0 points at 100 % of the labels against two, not told apart)" in same.said


def test_of_several_runs_the_best_has_wider_intervals(told: Labelled) -> None:
    """It was chosen by what it is judged by."""
    ledger = Ledger(None)
    good = transferred(told, entrant("good", "run", (1.0, 1.0)), ledger).scores
    none = transferred(told, entrant("none", "untrained", (0.0, 0.0)), ledger).scores
    alone, among = (standing(told, {f"{n}": good for n in range(count)}, {"none": none}) for count in (1, 9))
    width = [float(found.said.split("worth it: +")[1].split(" ± ")[1].split()[0]) for found in (alone, among)]
    assert width[1] > 1.2 * width[0]


def test_the_layer_is_chosen_without_the_part_that_is_scored(told: Labelled) -> None:
    """The first layer knows the part to fit on only, the second the part to score on only: the first is chosen."""
    encoder = Told((1.0, 0.0), (0.1, 1.0))
    best = best_layer(encoder, told, Features.of(encoder, told), 0, "x")
    assert best.layer == "1" and list(best.held_out) == ["1", "2", "last"]
    assert best.held_out["1"] > 0.9 > 0.6 > best.held_out["last"] == best.held_out["2"]
    assert best.score.right.shape == (1, 200) and float(best.score.right.double().mean()) < 0.5
    useful = Told((0.1, 0.1), (1.0, 1.0), (0.3, 0.3))
    best = best_layer(useful, told, Features.of(useful, told), 0, "x")
    features = Features(useful.layers(told.train)[1], useful.layers(told.test)[1], told)
    assert best.layer == "2" and best.score.right.equal(linear_score("x", features, told, ALL, 0).right)
    assert float(best.score.right.double().mean()) > 0.9


def test_of_equal_layers_the_last_is_chosen(told: Labelled) -> None:
    encoder = Told((1.0, 1.0), (1.0, 1.0))
    encoder.layers = lambda samples: [encoder.encode(samples)] * 2  # type: ignore[method-assign]
    assert best_layer(encoder, told, Features.of(encoder, told), 0, "x").layer == "last"
    assert shows_layers(encoder, told.train) and not shows_layers(Told((1.0, 1.0)), told.train)
    encoder.layers = lambda samples: SimpleNamespace().gone  # type: ignore[method-assign]
    assert not shows_layers(encoder, told.train)


def test_a_ledger_asks_once(told: Labelled, tmp_path: Path) -> None:
    file = tmp_path / "new" / "table.jsonl"
    first = transferred(told, entrant("a", "run", (1.0, 1.0), (0.5, 0.5)), Ledger(file))
    with open(file, "a") as torn:
        torn.write('{"task": "kn')
    again = entrant("a", "run", (1.0, 1.0), (0.5, 0.5))
    again = Entrant("b", "run", again.identity, lambda labelled: pytest.fail("made again"), again.encoder)
    second = transferred(told, again, Ledger(file))
    assert [{**row, "run": "a"} for row in second.rows] == first.rows, "all but the name that it has now"
    assert all(one.right.equal(two.right) for one, two in zip(first.scores, second.scores, strict=True))
    other = Transfer(entrant("a", "run", (0.9, 1.0)), told, Ledger(file), str, QUIET)
    other.knn()
    lines = file.read_text().splitlines()
    assert len(lines) == 6 and lines[4] == '{"task": "kn' and json.loads(lines[5])["mean"] == other.rows[0]["mean"]


def test_answers_survive_packing() -> None:
    right = torch.rand(5, 37, generator=torch.Generator().manual_seed(0)) < 0.5
    assert unpacked(json.loads(json.dumps(packed(right)))).equal(right)


def test_short_names() -> None:
    assert short_names(["runs/a", "runs/b", "hf:x/a"]) == {"runs/a": "a", "runs/b": "b", "hf:x/a": "hf:x/a"}
    assert short_names(["old/a", "new/a"]) == {"old/a": "old/a", "new/a": "new/a"}


# Runs on pictures


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gray `digits`, colored `shapes` and captioned ones, `texts`; runs `a`, `b`, `lm`, `masked` and `clip`."""
    root = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "report", no_pictures)
        fill(root)
    return root


def fill(root: Path) -> None:
    images, labels = (load_sample("digits")["train"][column][:240] for column in ("image", "label"))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / "digits" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "digits" / label / f"{number}.png")
    for row in captioned.rows(96):
        (root / "shapes" / row["shape"]).mkdir(parents=True, exist_ok=True)
        picture = captioned.picture(row["color"], row["shape"], row["number"])
        picture.save(root / "shapes" / row["shape"] / f"{row['number']}.png")
    captioned.write(root / "captioned", 48)
    generator = np.random.default_rng(0)
    lines = [f"{' '.join(generator.choice(SUBJECTS[n % 2].split(), 5))},{['royal', 'home'][n % 2]}" for n in range(120)]
    (root / "texts.csv").write_text("\n".join(["body,kind", *lines]) + "\n")
    (root / "prose.txt").write_text(". ".join(line.split(",")[0] for line in lines))
    for name, steps, seed in (("a", 8, 0), ("b", 2, 1)):
        recipe = selfsup.recipe("simclr", data=root / "digits", steps=steps, seed=seed, **PICTURES)
        selfsup.train(recipe, root / name, quiet=True)
    for name, objective in (("lm", "causal_lm"), ("masked", "masked_lm")):
        selfsup.train(selfsup.recipe(objective, data=root / "prose.txt", **TEXT), root / name, quiet=True)
    recipe = selfsup.recipe(
        "clip", data=root / "captioned", pixels=16, size="nano", layers=2, heads=2, width=16, output=8, batch=16,
        steps=3,
    )  # fmt: skip
    selfsup.train(recipe, root / "clip", quiet=True)


def by_run(rows: list[dict], task: str) -> dict[str, float]:
    return {row["run"]: row["mean"] for row in rows if row["task"] == task}


def test_pictures(place: Path, tmp_path: Path) -> None:
    a, b, digits = (str(place / name) for name in ("a", "b", "digits"))
    out, plot = tmp_path / "table.jsonl", tmp_path / "scores.png"
    rows = compare([a, b], [digits], labels=("10%", "100%"), out=out, plot=plot, quiet=True)
    untrained = f"untrained {selfsup.load(a).about.network}"
    assert by_run(rows, "knn").keys() == {a, b, untrained, "raw input"}, "both runs have the same untrained network"
    for task, who in (("layer", {a, b, untrained}), ("rank", {a, b, untrained}), ("cost", {a, b})):
        assert by_run(rows, task).keys() == who
    (chosen,) = [row for row in rows if row["task"] == "layer" and row["run"] == a]
    assert chosen["held_out"][chosen["layer"]] == max(chosen["held_out"].values())
    costs = {row["metric"]: row for row in rows if row["task"] == "cost" and row["run"] == a}
    record = selfsup.Run(a).record
    assert costs["samples"]["mean"] == 8 * 32 and costs["seconds"]["mean"] == record["seconds"]
    assert costs["kWh"]["mean"] == record["energy"]["kwh"] and costs["kWh"]["how"] == record["energy"]["cpu"]["how"]
    verdict, best = rows[-1], Path(rows[-1]["run"]).name
    assert verdict["task"] == "verdict" and verdict["text"].startswith(f"digits: best of 2 is {best} (")
    scores = selfsup.evaluate(a, digits, labels=("10%", "100%"), quiet=True)
    mine = {(row["task"], row["labels"]): row["mean"] for row in rows if row["run"] == a}
    same = {(row["task"], row["labels"]): row["mean"] for row in scores if row["representation"] == "run"}
    del same["verdict", 0]
    assert same == {key: mine[key] for key in same}, "what eval says of the run"
    with Image.open(plot) as drawn:
        assert drawn.size[0] == 1200 and np.asarray(drawn).std() > 0
    assert len(panels_of(rows)) == 1 and [*panels_of(rows)[0].cells][:2] == ["a", "b"]


def test_what_is_done_is_not_done_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, digits = tmp_path / "table.jsonl", str(place / "digits")
    first = compare([place / "a"], [digits], labels=("100%",), out=out, quiet=True)
    lines = out.read_text().splitlines()
    made: list[str] = []
    whole = Features.of

    def counted(encoder: Encoder, labelled: Labelled) -> Features:
        made.append(labelled.name)
        return whole(encoder, labelled)

    monkeypatch.setattr(Features, "of", counted)
    assert compare([place / "a"], [digits], labels=("100%",), out=out, quiet=True) == first
    assert out.read_text().splitlines() == lines and not made
    both = compare([place / "a", place / "b"], [digits], labels=("100%",), out=out, quiet=True)
    assert made == [digits], "of b alone; its untrained network was there"
    assert [row for row in both if row["run"] != str(place / "b") and row["task"] != "verdict"] == first[:-1]
    kept = out.read_text().splitlines()
    out.write_text("\n".join(kept[:-5]) + "\n" + kept[-5][:20])
    assert compare([place / "a", place / "b"], [digits], labels=("100%",), out=out, quiet=True) == both


def test_a_changed_part_is_scored_again(place: Path, tmp_path: Path) -> None:
    """Of a part to score on with other content nothing is taken from the file."""
    for part in ("train", "test"):
        shutil.copytree(place / "digits", tmp_path / "set" / part)
    out = tmp_path / "table.jsonl"
    before = compare([place / "a"], [tmp_path / "set"], labels=("100%",), out=out, quiet=True)
    for label in "2345":
        shutil.rmtree(tmp_path / "set" / "test" / label)
    after = compare([place / "a"], [tmp_path / "set"], labels=("100%",), out=out, quiet=True)
    assert by_run(before, "knn") != by_run(after, "knn") and before[0]["chance"] < after[0]["chance"]


def test_an_exported_folder_and_fine_tuning(place: Path, tmp_path: Path) -> None:
    selfsup.export(place / "a", tmp_path / "out")
    exported, digits = str(tmp_path / "out" / "image"), str(place / "digits")
    rows = compare([place / "a", exported], [digits], labels=("100%",), fine_tune=True, quiet=True)
    for task in ("knn", "linear", "layer", "rank", "fine-tune"):
        assert by_run(rows, task)[exported] == pytest.approx(by_run(rows, task)[str(place / "a")], abs=0.03), task
    assert by_run(rows, "cost").keys() == {str(place / "a")}
    tuned = {row["representation"] for row in rows if row["task"] == "fine-tune"}
    assert tuned == {"run", "scratch"} and "fine-tuned" in rows[-1]["text"]


def test_the_start_of_a_run_stands_beside_it(place: Path, tmp_path: Path) -> None:
    settings = {**PICTURES, "init": str(place / "a")}
    selfsup.train(selfsup.recipe("simclr", data=place / "digits", steps=2, **settings), tmp_path / "more", quiet=True)

    def names(*places: Path) -> list[str]:
        found = entrants_of({str(one): selfsup.load(one) for one in places}, "image")
        return [entrant.representation for entrant in found]

    assert names(tmp_path / "more") == ["run", "start", "untrained", "raw"]
    assert names(tmp_path / "more", place / "a") == ["run", "run", "untrained", "raw"], "the start is there itself"


def test_a_second_network_of_one_name_is_called_by_its_run_when_untrained():
    name, arguments = chosen(None, "nano", False, None, 16)
    encoders = {
        f"runs/{size}": ImageEncoder.create(name, arguments, size, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        for size in (16, 32)
    }
    found = [one.name for one in entrants_of(encoders, "image") if one.representation == "untrained"]
    assert found == [f"untrained {name}", "untrained 32"]


def test_who_has_diverged_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "a", tmp_path / "gone")
    (file,) = (tmp_path / "gone" / "model").glob("image/*.safetensors")
    state = {name: value * torch.nan if value.is_floating_point() else value for name, value in load_file(file).items()}
    save_file(state, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"/gone on .*digits: the training features hold NaN"):
        compare([place / "a", tmp_path / "gone"], [place / "digits"], labels=("100%",), quiet=True)


# Channels and kinds


def test_gray_pictures_are_repeated_and_others_refused(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = compare([place / "clip"], [place / "digits", place / "shapes"], labels=("100%",), quiet=True)
    said = [record.message for record in caplog.records if "repeated" in record.message]
    assert said == [f"{place}/digits: gray pictures, repeated for each channel of {place}/clip"]
    assert [row["data"] for row in rows if row["task"] == "verdict"] == [f"{place}/digits", f"{place}/shapes"]
    with pytest.raises(UserError, match=r"shapes: its pictures have 3 channels, .*/a sees 1; leave one out"):
        compare([place / "clip", place / "a"], [place / "digits", place / "shapes"], quiet=True)


def test_two_towers_read_both(place: Path) -> None:
    columns = ("text=body", "label=kind")
    rows = compare([place / "clip"], [place / "shapes", place / "texts.csv"], columns, ("100%",), quiet=True)
    kinds = {row["data"]: row["run"] for row in rows if row["representation"] == "untrained"}
    image, text = (selfsup.load(place / "clip", name) for name in ("image", "text"))
    assert kinds == {
        str(place / "shapes"): f"untrained {image.about.network}",
        str(place / "texts.csv"): f"untrained {text.model.config.model_type}",
    }


def test_the_exported_pair_of_two_towers(place: Path, tmp_path: Path) -> None:
    """In its common space it has no layers but the last."""
    selfsup.export(place / "clip", tmp_path / "out")
    pair = tmp_path / "out" / "pair"
    rows = compare([pair, place / "clip"], [place / "shapes"], labels=("100%",), quiet=True)
    assert str(pair) in by_run(rows, "linear") and str(pair) not in by_run(rows, "layer")


def test_texts(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [place / "lm", place / "masked", "--data", place / "texts.csv", "--labels", "100%"]
    words = ["compare", *map(str, words), "--columns", "text=body", "label=kind"]
    assert cli.run([*words, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["run"] for row in rows if row["representation"] == "untrained"}) == 2
    knn = by_run(rows, "knn")
    assert knn["raw input"] == 1.0 and rows[-1]["task"] == "verdict" and rows[-1]["mean"] == 0.0
    held_out = [row["held_out"] for row in rows if row["task"] == "layer"]
    assert len(held_out) == 4 and all(list(one) == ["1", "2", "last"] for one in held_out)
    assert cli.run(words) == 0
    heading, title, *lines, empty, said = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[-1] and title.strip() == "texts.csv (one in five by content)"
    assert [line.split()[0] for line in lines] == ["lm", "masked", "untrained", "untrained", "raw", "chance"]
    assert "Wh" in lines[0] and lines[2].split()[-3:] == ["-", "-", "-"] and not empty
    assert said.startswith("texts.csv: best of 2 is") and "not worth it: " in said


@pytest.mark.parametrize(
    ("runs", "data", "more", "said"),
    [
        (["a", "lm"], ["digits"], {}, "/a reads pictures and .*/lm texts: allowed are runs of one kind"),
        (["a"], ["texts.csv"], {}, "texts.csv holds no pictures, which the runs read, only columns: body, kind"),
        (["a"], ["digits", "prose.txt"], {}, "prose.txt holds no pictures"),
        (["a"], ["captioned"], {}, "captioned has no labels; give one folder per class"),
        (["a"], ["digits/1"], {}, "only the label|no labels"),
        (["a", "none"], ["digits"], {}, "none: no such run or folder"),
        ([], ["digits"], {}, "nothing to compare"),
        (["a"], ["digits"], {"columns": ("label=kind",)}, "label=kind: there is no column 'kind' in .*digits"),
        (["a"], ["digits"], {"out": "prose.txt"}, "ends in .jsonl"),
        (["a"], ["digits"], {"out": "captioned/metadata.jsonl"}, "holds no results of compare"),
        (["a"], ["digits"], {"plot": "scores.pdf"}, "the allowed ending is .png"),
        (["a"], ["digits"], {"labels": ("200",)}, "too few for --labels"),
    ],
)  # fmt: skip
def test_what_is_refused(place: Path, runs: list[str], data: list[str], more: dict, said: str) -> None:
    more = {name: place / value if name in ("out", "plot") else value for name, value in more.items()}
    with pytest.raises(UserError, match=said) as error:
        compare([place / one for one in runs], [place / one for one in data], quiet=True, **more)
    assert "\n" not in str(error.value)


def test_answers_of_the_verdict_are_paired(told: Labelled) -> None:
    """The same answers as `eval` compares: by row, beside chance."""
    scores = transferred(told, entrant("good", "run", (1.0, 1.0)), Ledger(None)).scores
    found = answers(told, scores)
    assert found.keys() == {"at 100 % of the labels"} and found["at 100 % of the labels"].keys() == {"chance", "good"}

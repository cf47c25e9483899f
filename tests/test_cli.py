"""Every verb in this process, on a run of each objective that took a few steps; and the same from Python."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

import selfsup
from selfsup import cli
from selfsup.data.samples import load_sample
from selfsup.predict import fill, generate
from selfsup.predictors.generator import Generator

pytestmark = pytest.mark.usefixtures("short_fits")

VERBS = ("list", "show", "train", "resume", "eval", "compare", "doctor", "classify", "embed")
VERBS += ("audit", "mine", "near", "search", "generate", "fill", "continue", "export")
PICTURES = "--pixels 16 --hidden 8 --output 8 --batch 16 --steps 4 --log-every 1"
TEXT = "--tokenizer byte --context 16 --layers 1 --heads 2 --width 16 --batch 4 --steps 4"
KEYS = {"task", "representation", "data", "split", "step", "layer", "labels", "metric", "mean", "chance", "seed"}


def train_pictures(root: Path, out: Path) -> list[str]:
    """The command that makes the run of pictures."""
    return ["train", "simclr", "--data", f"{root}/digits", "--out", str(out), *PICTURES.split()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of pictures, `pictures`, and two of text, `text` and `masked`; the first saw the `digits`."""
    root = tmp_path_factory.mktemp("runs")
    images, labels = (load_sample("digits")["train"][column][:240] for column in ("image", "label"))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (root / "digits" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "digits" / label / f"{number}.png")
    (root / "prose.txt").write_text("The quick brown fox jumps over the lazy dog. " * 80)
    assert cli.run(train_pictures(root, root / "pictures")) == 0
    for name, out in (("causal_lm", "text"), ("masked_lm", "masked")):
        words = ["train", name, "--data", f"{root}/prose.txt", "--out", f"{root}/{out}", *TEXT.split()]
        assert cli.run(words) == 0
    return root


@pytest.fixture
def say(capsys: pytest.CaptureFixture):
    """Runs a command and gives what it prints."""

    def printed(*words: object) -> str:
        capsys.readouterr()
        assert cli.run([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return printed


class TestHelp:
    def test_overview_names_every_verb(self, say) -> None:
        assert {line.split()[0] for line in say("--help").splitlines() if line.startswith("  ")} == set(VERBS)
        assert say("--help") == say("-h") == say("help") == say()
        assert say("--version") == f"selfsup {selfsup.__version__}\n"

    @pytest.mark.parametrize("words", [*([verb] for verb in VERBS[1:]), ["train", "simclr"], ["train", "causal_lm"]])
    def test_speaks_to_people(self, words: list[str], capsys: pytest.CaptureFixture) -> None:
        """Every flag is explained, and none of Python's own words are needed to read it."""
        try:
            assert cli.run([*words, "--help"]) == 0
        except SystemExit as end:
            assert end.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: selfsup {' '.join(words)} ")
        noise = (
            r"\{None\}|\bNone\b|\bSTR\b|\bINT\b|\bFLOAT\b|\bFalse\b|NoneType|Annotated|FieldInfo|\(default: \)|<class"
        )
        assert not re.search(noise, shown), shown
        plain = re.sub(r"[│╭╮╰╯─ ]+", " ", shown)
        for flag in re.findall(r"\n (?:-h, )?(--[\w-]+)", plain):
            told = re.search(rf"\n (?:-h, )?{flag}(.*?)(?=\n --|\n ?\n|$)", plain, re.DOTALL)
            assert told and "(default" not in told.group(1)[:5] and len(told.group(1).split()) >= 2, flag

    @pytest.mark.parametrize("name", ["simclr", "causal_lm"])
    def test_every_setting_has_a_flag(self, name: str, capsys: pytest.CaptureFixture) -> None:
        with pytest.raises(SystemExit):
            cli.run(["train", name, "--help"])
        flags = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
        assert {"--data", "--out", "--batch", "--steps", "--epochs", "--minutes", "--seed", "--init"} <= flags
        assert {"simclr": "--temperature", "causal_lm": "--context"}[name] in flags


class TestListAndShow:
    def test_list(self, say) -> None:
        names = [line.split()[0] for line in say("list").splitlines()]
        assert names == sorted(names) and {"causal_lm", "simclr"} <= set(names)

    def test_objective(self, say) -> None:
        assert "arXiv" in say("show", "simclr")
        assert json.loads(say("show", "simclr", "--json"))["config"]["temperature"] == 0.2

    def test_run(self, say, runs: Path) -> None:
        record = json.loads(say("show", runs / "pictures", "--json"))
        assert record["recipe"]["optimizer"]["batch"] == 16 and record["facts"]["size"] == 16
        assert record["plan"]["stop"] == 4 and record["step"] >= 4


class TestTrainAndResume:
    def test_run_folder(self, runs: Path) -> None:
        lines = [json.loads(line) for line in (runs / "pictures" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines][:4] == [1, 2, 3, 4]
        assert all(math.isfinite(line["loss"]) for line in lines)
        drawn = {file.name for file in (runs / "pictures" / "pictures").iterdir()}
        assert drawn == {"loss.png", "views.png", "neighbors.png", "map.png"}
        assert (runs / "pictures" / "model" / "image" / "model.safetensors").exists()
        assert {entry.name for entry in (runs / "text" / "model").iterdir()} == {"text", "generate"}

    def test_same_command_same_weights(self, runs: Path, tmp_path: Path) -> None:
        assert cli.run(train_pictures(runs, tmp_path / "again")) == 0
        first, second = (
            selfsup.Run(folder).state(4)["objective"] for folder in (runs / "pictures", tmp_path / "again")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_resume(self, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        out = tmp_path / "run"
        cli.run(train_pictures(runs, out))
        capsys.readouterr()
        assert cli.run(["resume", str(out)]) == 0
        assert "is complete at step 4" in capsys.readouterr().err
        assert cli.run(["resume", str(out), "--more", "2"]) == 0
        assert "goes on at step 4 of 6" in capsys.readouterr().err  # what a verb does is shown
        assert selfsup.Run(out).step == 6


class TestEval:
    def test_pictures(self, say, runs: Path) -> None:
        rows = [json.loads(line) for line in say("eval", runs / "pictures", "--json").splitlines()]
        assert all(row.keys() >= KEYS and 0 <= row["mean"] <= 1 for row in rows)
        assert {(row["task"], row["representation"], row["labels"]) for row in rows[:-1]} == {
            (task, who, share)
            for task, share in (("knn", 1.0), ("linear", 0.1), ("linear", 1.0))  # 1 % are fewer than the classes
            for who in ("run", "untrained", "raw")
        }
        assert all(("sd_labels" in row) == (row["labels"] < 1) for row in rows[:-1])
        assert rows[-1]["task"] == "verdict" and rows[-1]["text"].startswith(("worth it: ", "not worth it: "))
        assert next(row["mean"] for row in rows if (row["task"], row["representation"]) == ("knn", "raw")) > 0.6
        logged = (runs / "pictures" / "evals.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in logged[-len(rows) :]] == rows

    def test_text(self, say, runs: Path, tmp_path: Path) -> None:
        (tmp_path / "other.txt").write_text("The quick brown fox. " * 40)
        rows = [
            json.loads(line)
            for line in say("eval", runs / "text", "--data", tmp_path / "other.txt", "--json").splitlines()
        ]
        assert all(row.keys() >= KEYS and math.isfinite(row["mean"]) for row in rows)
        assert rows.pop()["text"].startswith("not worth it: -")
        bits = {row["representation"]: row["mean"] for row in rows if row["metric"] == "bits per byte"}
        assert bits.keys() == {"run", "untrained", "unigram", "5-gram", "xz"}
        assert bits["5-gram"] < bits["unigram"] < bits["untrained"]
        mine = {row["metric"]: row["mean"] for row in rows if row["representation"] == "run"}
        assert mine == pytest.approx(self.by_transformers(runs / "text" / "model" / "generate", tmp_path / "other.txt"))

    def by_transformers(self, folder: Path, file: Path) -> dict[str, float]:
        """The scores of a byte model with a window of 16, by its exported network alone."""
        network, ids = AutoModelForCausalLM.from_pretrained(folder), torch.tensor(list(file.read_bytes()))
        nats, right = 0.0, 0
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            with torch.no_grad():
                logits = network(window[None, :-1]).logits[0].double()
            nats -= float(logits.log_softmax(-1)[torch.arange(len(window) - 1), window[1:]].sum())
            right += int((logits.argmax(-1) == window[1:]).sum())
        count = len(ids) - 1
        found = {"nats per token": nats / count, "perplexity": math.exp(nats / count)}
        return found | {"bits per byte": nats / count / math.log(2), "next-token accuracy": right / count}

    def test_table(self, say, runs: Path) -> None:
        heading, *lines, empty, verdict = say("eval", runs / "pictures", "--labels", "100%", "3").splitlines()
        assert heading.split() == ["task", "labels", "metric", "run", "untrained", "raw", "chance", "data"]
        assert [" ".join(line.split()[:3]) for line in lines] == ["knn 100 %", "linear 100 %", "linear 3 a"]
        assert [line.count("%") for line in lines] == [5, 5, 4] and lines[2].count(" ± ") == 3
        assert empty == "" and "worth it: " in verdict and "3 labels a class" in verdict
        assert "bits per byte" in say("eval", runs / "text")


class TestEmbed:
    def test_pictures(self, say, runs: Path, tmp_path: Path) -> None:
        say("embed", runs / "pictures", "--data", "sample:digits", "--out", tmp_path / "v.npy")
        found = torch.from_numpy(np.load(tmp_path / "v.npy"))
        parts = load_sample("digits")
        wanted = selfsup.load(runs / "pictures").encode(parts["train"]["image"] + parts["test"]["image"])
        assert found.shape == wanted.shape == (1797, 128) and found.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.99

    def test_names(self, say, runs: Path, tmp_path: Path) -> None:
        images = load_sample("digits")["train"]["image"][:12]
        for number, image in enumerate(images):
            (tmp_path / "photos" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png")
        say("embed", runs / "pictures", "--data", tmp_path / "photos", "--out", tmp_path / "v.parquet")
        table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pydict()
        files = sorted((tmp_path / "photos").rglob("*.png"))
        assert table["name"] == [str(file) for file in files] and set(table["part"]) == {"train"}
        wanted = selfsup.load(runs / "pictures").encode([Image.open(file) for file in files])
        assert torch.nn.functional.cosine_similarity(torch.tensor(table["vector"]), wanted).min() > 0.99

    def test_texts(self, say, runs: Path, tmp_path: Path) -> None:
        texts = ["a fox", "the lazy dog", "nothing of the kind"]
        (tmp_path / "t.csv").write_text("body\n" + "\n".join(texts) + "\n")
        words = ("--data", tmp_path / "t.csv", "--columns", "text=body", "--out", tmp_path / "deep" / "v.npy")
        say("embed", runs / "text", *words)
        wanted = selfsup.load(runs / "text").encode(texts).numpy()
        assert np.allclose(np.load(tmp_path / "deep" / "v.npy"), wanted, atol=1e-6) and wanted.shape == (3, 16)


class TestGenerate:
    def test_prompt_stays_and_seed_decides(self, say, runs: Path) -> None:
        def text(seed: int) -> str:
            return say("generate", runs / "text", "The quick", "--tokens", 30, "--seed", seed)

        assert text(1) == text(1) != text(2)
        assert text(1).startswith("The quick") and len(text(1)) > 20

    def test_flags_arrive(self, say, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is left of the likeliest tokens, and line ends as a shell passes them on."""
        first = ("generate", runs / "text", "The quick", "--tokens", 8)
        greedy = say(*first, "--temperature", 0)
        assert say(*first, "--top-p", 1e-6, "--top-k", 0) == greedy != say(*first, "--top-k", 0)
        monkeypatch.setattr(Generator, "stream", lambda *_: iter(b"one\ntwo. three"))
        assert say("generate", runs / "text", "--stop", "\\n", "##") == "one\n"
        assert say("generate", runs / "text", "--stop", ".", "thr") == "one\ntwo\n"

    def test_pieces_join_to_whole_characters(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A character of several bytes comes when its last one has; half a one at the end never does."""
        whole = "né 狐 🦊!"

        def stream(self: Generator, prompt: str, tokens: int, *_: object) -> Iterator[int]:
            yield from (whole + "🦊").encode()[:-1]

        monkeypatch.setattr(Generator, "stream", stream)
        assert [piece for piece in generate(runs / "text") if piece] == list(whole)


class TestFill:
    def test_a_table_for_each_mask(self, say, runs: Path) -> None:
        words = ("fill", runs / "masked", "[MASK]he q[MASK]ick", "--top-k", 3)
        shown, lines = say(*words).splitlines(), [json.loads(line) for line in say(*words, "--json").splitlines()]
        assert [line["mask"] for line in lines] == [1, 1, 1, 2, 2, 2]
        assert shown[0] == "mask 1 of 2" and shown[4] == "mask 2 of 2" and len(shown) == 8
        for line, text in zip(lines, shown[1:4] + shown[5:], strict=True):
            chance, token = text.split(" %  ")
            assert float(chance) == pytest.approx(100 * line["probability"], abs=0.06)
            assert json.loads(token) == line["token"]
        wanted = [guess for mask in fill(runs / "masked", "[MASK]he q[MASK]ick", 3) for guess in mask]
        assert [(line["token"], line["probability"]) for line in lines] == [
            (one.token, one.probability) for one in wanted
        ]


class TestContinue:
    def test_best_first(self, say, runs: Path, tmp_path: Path) -> None:
        """What stands in the text it learned from, above what does not; brackets are text."""
        (tmp_path / "passages.txt").write_text("[b]#@~[/b]\n\n the lazy\n")
        words = ("continue", runs / "text", "jumps over", "--candidates", tmp_path / "passages.txt")
        lines = [json.loads(line) for line in say(*words, "--json").splitlines()]
        assert [line["passage"] for line in lines] == ["the lazy", "[b]#@~[/b]"]
        assert sum(line["probability"] for line in lines) == pytest.approx(1)
        assert say(*words).splitlines() == [f"{100 * one['probability']:>6.1f} %  {one['passage']}" for one in lines]


class TestExport:
    @pytest.mark.parametrize(("run", "names"), [("pictures", ["image"]), ("text", ["generate", "text"])])
    def test_folders_with_cards(self, say, runs: Path, tmp_path: Path, run: str, names: list[str]) -> None:
        shown = say("export", runs / run, tmp_path / "out")
        assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == names
        for name in names:
            card = (tmp_path / "out" / name / "README.md").read_text()
            (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
            compile(code, name, "exec")
            assert code.strip() in shown and "4 steps" in card and str(tmp_path / "out" / name) in code

    def test_an_export_embeds_and_generates_like_the_run(self, say, runs: Path, tmp_path: Path) -> None:
        say("export", runs / "text", tmp_path / "out")
        prompt = ("The quick", "--tokens", 20)
        assert say("generate", tmp_path / "out" / "generate", *prompt) == say("generate", runs / "text", *prompt)
        texts = ["a fox", "the lazy dog"]
        first, second = (selfsup.load(place).encode(texts) for place in (tmp_path / "out" / "text", runs / "text"))
        assert torch.equal(first, second)


class TestPython:
    def test_the_public_names_exist(self) -> None:
        assert set(selfsup.__all__) <= vars(selfsup).keys() | selfsup._PLACES.keys()
        assert all(vars(selfsup).get(name) or selfsup.__getattr__(name) for name in selfsup.__all__)
        with pytest.raises(AttributeError, match="no attribute 'trian'"):
            selfsup.trian  # noqa: B018

    def test_recipe_equals_the_flags(self, runs: Path) -> None:
        recipe = selfsup.recipe(
            "simclr", data=runs / "digits", pixels=16, hidden=8, output=8, batch=16, steps=4, log_every=1
        )
        trained = selfsup.Run(runs / "pictures").recipe
        assert (recipe.config, recipe.optimizer, recipe.watch) == (trained.config, trained.optimizer, trained.watch)
        assert recipe.budget.steps == 4 and recipe.budget.minutes is None
        assert recipe.data.source == trained.data.source == str(runs / "digits")

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"temprature": 1}, "did you mean 'temperature'"),
            ({"temperature": "low"}, "--temperature low: .*number"),
            ({"batch": True}, "--batch True: .*integer"),
            ({"seed": "x"}, "--seed x: .*integer"),
            ({"steps": 3, "epochs": 1}, "only one"),
            ({"data": np.zeros((2, 4, 4))}, "ndarray.*data="),
        ],
    )
    def test_recipe_refuses(self, settings: dict, said: str) -> None:
        with pytest.raises(selfsup.UserError, match=said):
            selfsup.recipe("simclr", **settings)

    def test_from_an_array_to_an_export(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        pictures = np.random.default_rng(0).integers(0, 256, (40, 20, 24, 3), np.uint8)
        recipe = selfsup.recipe("simclr", steps=3, batch=8, hidden=8, output=8)
        run = selfsup.train(recipe, tmp_path / "run", data=pictures, quiet=True)
        assert capsys.readouterr() == ("", "")
        assert run.recipe.data.source == "data given in Python" and run.facts.channels == 3
        vectors = selfsup.load(tmp_path / "run").encode(pictures[:5])
        assert vectors.shape == (5, 128) and torch.isfinite(vectors).all()
        with pytest.raises(selfsup.UserError, match="given again"):
            selfsup.resume(tmp_path / "run", more=2)
        assert selfsup.resume(tmp_path / "run", more=2, data=pictures, quiet=True).step == 5
        with pytest.raises(selfsup.UserError, match="given again"):
            selfsup.evaluate(tmp_path / "run")
        with pytest.raises(selfsup.UserError, match="no column 'image'"):
            selfsup.evaluate(tmp_path / "run", "sample:prose")
        assert selfsup.export(tmp_path / "run", tmp_path / "out").keys() == {"image"}

    def test_evaluate_returns_what_the_verb_prints(self, say, runs: Path) -> None:
        rows = selfsup.evaluate(runs / "pictures", quiet=True)
        assert [json.loads(line) for line in say("eval", runs / "pictures", "--json").splitlines()] == rows

"""Classes by prompting: the prompt itself, its shots, the labels' probabilities, and what the verb writes."""

from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import selfsup
from selfsup import cli
from selfsup.data.draw import Draw
from selfsup.data.tokenizer import train_tokenizer
from selfsup.errors import UserError
from selfsup.predictors.generator import Generator
from selfsup.prompting import PROMPT, Accuracy, Prompting, label_chances, prompt_classes
from selfsup.shots import Examples
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape

LIKE = "text,label\nsun,warm\nmoon,cold\nfire,warm\nice,cold\n"


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    encoder = TextEncoder.create("decoder", train_tokenizer("byte", 261, []), 48, Shape(1, 2, 16))
    for weight in encoder.model.parameters():
        nn.init.normal_(weight, std=0.3)
    return Generator(encoder.model, encoder.tokenizer, 48)


@pytest.fixture
def place(generator: Generator, tmp_path: Path) -> Path:
    """A folder with an exported language model, `lm`, and labelled examples, `like.csv`."""
    generator.save(tmp_path / "lm")
    (tmp_path / "like.csv").write_text(LIKE)
    return tmp_path


class Oracle:
    """Stands for `log_likelihood`: likes a label that some rule finds in the prompt, and notes what it was asked."""

    def __init__(self, told: bool) -> None:
        self.told, self.asked = told, []

    def __call__(self, prompts: list[str], labels: list[str]) -> tuple[Tensor, Tensor]:
        self.asked += list(zip(prompts, labels, strict=True))
        return torch.tensor(
            [math.log(0.9 if self.right(*pair) else 0.1) for pair in zip(prompts, labels, strict=True)]
        ), torch.ones(len(prompts), dtype=torch.int64)

    def right(self, prompt: str, label: str) -> bool:
        """By the last text itself; or only if it was `told`, a shot with its label."""
        text = prompt.removesuffix("\nlabel:").rsplit("\n", 1)[-1]
        if self.told:
            return f"{text}\nlabel:{label}" in prompt
        return (text in ("sun", "fire", "stove")) == (label == " warm")


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as source:
        return list(csv.DictReader(source))


class TestPrompt:
    def test_spaces_go_with_the_label(self) -> None:
        asked = Prompting(shots=1)
        assert (asked.question("{label}"), asked.answer("good")) == ("{label}\nlabel:", " good")
        assert asked.example("fine", "good") == PROMPT.replace("{text}", "fine").replace("{label}", "good")
        own = Prompting(shots=1, prompt="Q: {text}\nA:\n{label}.")
        assert (own.question("x"), own.answer("y"), own.example("x", "y")) == ("Q: x\nA:\n", "y", "Q: x\nA:\ny.")

    @pytest.mark.parametrize("prompt", ["", "{text}", "{label}", "{label}{text}", "{text}{label}{label}", "{text}" * 2])
    def test_both_places(self, prompt: str) -> None:
        with pytest.raises(UserError, match=r"--prompt .* \{text\} once and behind it \{label\} once"):
            Prompting(shots=1, prompt=prompt)

    @pytest.mark.parametrize("numbers", [{"shots": -1}, {"shots": 2, "draws": 0}])
    def test_numbers(self, numbers: dict[str, int]) -> None:
        with pytest.raises(UserError, match="allowed are 0 or more shots, and 1 draw or more"):
            Prompting(**numbers)


class TestShots:
    def examples(self) -> Examples:
        labels = torch.tensor([0] * 20 + [1] * 8 + [2] * 2)
        return Examples([str(number) for number in range(30)], labels, ("a", "b", "c"))

    @pytest.mark.parametrize(("count", "wanted"), [(3, (1, 1, 1)), (6, (2, 2, 2)), (9, (4, 3, 2)), (30, (20, 8, 2))])
    def test_evenly_over_the_classes(self, count: int, wanted: tuple[int, ...]) -> None:
        """As far as each has so many."""
        examples = self.examples()
        for number in range(5):
            drawn = examples.drawn(count, Draw(0, number, torch.arange(30)))
            of_class = Counter(examples.labels[drawn].tolist())
            found = tuple(of_class[one] for one in range(3))
            assert found == wanted or (count == 9 and found == (3, 4, 2))
            assert len(set(drawn)) == count

    def test_each_draw_is_another(self) -> None:
        examples = self.examples()

        def drawn(seed: int, number: int) -> list[int]:
            return examples.drawn(4, Draw(seed, number, torch.arange(30)))

        assert drawn(0, 0) == drawn(0, 0)
        assert len({tuple(drawn(seed, number)) for seed in range(3) for number in range(5)}) == 15
        orders = [tuple(examples.labels[drawn(0, number)].tolist()) for number in range(40)]
        assert {order[0] for order in orders} == {order[-1] for order in orders} == {0, 1, 2}
        twice = Counter(one for order in orders for one, count in Counter(order).items() if count == 2)
        assert twice.keys() == {0, 1, 2} and sum(twice.values()) == 40  # no class has the fourth shot for itself
        assert any(order[0] == order[1] for order in orders)  # not round after round

    @pytest.mark.parametrize(
        ("table", "said"),
        [("text\na\nb\n", "has no labels"), ("text,label\na,x\nb,\n,y\n", "only the label 'x'")],
    )
    def test_examples_that_are_none(self, tmp_path: Path, table: str, said: str) -> None:
        (tmp_path / "like.csv").write_text(table)
        with pytest.raises(UserError, match=f"--like .*like.csv.* {said}"):
            Examples.of(tmp_path / "like.csv", {})


class TestChances:
    def by_hand(self, generator: Generator, prompt: str, label: str) -> tuple[float, int]:
        """Log-probability of a label's bytes, a byte at a time."""
        ids, total = list(prompt.encode()), 0.0
        for byte in label.encode():
            with torch.no_grad():
                total += float(generator.network(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)[byte])
            ids.append(byte)
        return total, len(label.encode())

    @pytest.mark.parametrize(("classes", "mean"), [(("up", "no"), False), (("a", "longer"), True)])
    def test_softmax_over_the_labels(self, generator: Generator, classes: tuple[str, str], mean: bool) -> None:
        asked, shots = Prompting(shots=1), ["one\nlabel: a\n\n"]
        texts = ["two", "three"]
        found, cut = label_chances(generator, asked, texts, shots, classes)
        for row, text in zip(found, texts, strict=True):
            prompt = f"one\nlabel: a\n\n{text}\nlabel:"
            likely = [self.by_hand(generator, prompt, f" {label}") for label in classes]
            scores = torch.tensor([total / count if mean else total for total, count in likely])
            assert row.tolist() == pytest.approx(scores.softmax(0).tolist(), rel=1e-4)
        assert cut == 0

    def test_shots_that_do_not_fit_are_left_out_from_the_front(
        self, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """48 tokens are read: the label takes 5 of them and the question 7 besides its text."""
        oracle = Oracle(told=False)
        monkeypatch.setattr(generator, "log_likelihood", oracle)
        asked = Prompting(shots=3)
        shots = [asked.example(letter, "warm") for letter in "abc"]  # of 15 tokens each
        texts = ["x", "x" * 6, "x" * 7, "x" * 21, "x" * 22, "x" * 50]
        _, cut = label_chances(generator, asked, texts, shots, ("warm", "cold"))
        wanted = [shots[1:], shots[1:], shots[2:], shots[2:], [], []]
        assert [prompt for prompt, _ in oracle.asked[::2]] == [
            "".join(shown) + f"{text}\nlabel:" for shown, text in zip(wanted, texts, strict=True)
        ]
        assert cut == 6 and [label for _, label in oracle.asked] == [" warm", " cold"] * 6

    def test_a_label_too_long(self, generator: Generator) -> None:
        with pytest.raises(UserError, match="this network reads 48 at once"):
            label_chances(generator, Prompting(shots=0), ["a"], [], ("x" * 60, "y"))


class TestPromptClasses:
    def test_file_and_accuracy(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rows stay where they are; unknown labels are named; the same shots stand before all texts of a draw."""
        (place / "new.csv").write_text('text,label\nstove,warm\n"",warm\nsnow,warm\nwind,mild\nfrost,\nhail,cold\n')
        oracle = Oracle(told=False)
        monkeypatch.setattr(Generator, "log_likelihood", lambda _, *asked: oracle(*asked))
        with caplog.at_level(logging.WARNING, "selfsup"):
            file, found = prompt_classes(
                place / "lm", place / "new.csv", place / "like.csv", place / "c.csv", Prompting(shots=2, draws=3),
                quiet=True,
            )  # fmt: skip
        assert "labels that the examples lack, left out of the accuracy: mild" in caplog.text
        assert [(row["name"], row["label"], row["probability"]) for row in rows(file)] == [
            ("row 0", "warm", "0.9000"), ("row 1", "", ""), ("row 2", "cold", "0.9000"), ("row 3", "cold", "0.9000"),
            ("row 4", "cold", "0.9000"), ("row 5", "cold", "0.9000"),
        ]  # fmt: skip
        # of stove, snow and hail the first and the last; two are warm
        assert found == Accuracy(pytest.approx(2 / 3), 0.0, pytest.approx(2 / 3), 3)
        assert str(found) == "accuracy 66.7 ± 0.0 %, chance 66.7 %, 3 labels"
        prompts = [prompt for prompt, _ in oracle.asked]
        assert len(prompts) == 3 * 5 * 2
        begins = [{prompt[: prompt[:-7].rindex("\n") + 1] for prompt in prompts[n : n + 10]} for n in (0, 10, 20)]
        assert [len(begin) for begin in begins] == [1, 1, 1] and len(set.union(*begins)) > 1

    def test_what_a_shot_told_is_not_scored(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answer to the one of four examples that a prompt shows is always right, and counts nothing."""
        monkeypatch.setattr(Generator, "log_likelihood", lambda _, *asked: Oracle(told=True)(*asked))
        where = (place / "lm", place / "like.csv", place / "like.csv", place / "c.csv")
        _, found = prompt_classes(*where, Prompting(shots=1, draws=1), quiet=True)
        assert found is not None and found.rows == 4
        # of the other three one or two are cold, which is what a tie comes to; of all four it would be 2/4 or 3/4
        assert round(3 * found.mean, 6) in (1, 2)
        _, found = prompt_classes(*where, Prompting(shots=4), quiet=True)
        assert found is None

    def test_probability_is_the_mean_over_draws(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (place / "new.csv").write_text("text\nrain\n")
        answers = iter([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
        monkeypatch.setattr(
            Generator, "log_likelihood", lambda *_: (torch.tensor(next(answers)).log(), torch.tensor([4, 4]))
        )
        where = (place / "lm", place / "new.csv", place / "like.csv", place / "c.csv")
        _, found = prompt_classes(*where, Prompting(shots=2, draws=4), quiet=True)
        assert found is None
        assert [(row["label"], row["probability"]) for row in rows(place / "c.csv")] == [("warm", "0.5500")]

    def test_accuracy_over_draws(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (place / "new.csv").write_text("text,label\nrain,cold\nsand,warm\n")
        answers = iter([[0.9, 0.1, 0.2, 0.8], [0.9, 0.1, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2]])
        monkeypatch.setattr(
            Generator, "log_likelihood", lambda *_: (torch.tensor(next(answers)).log(), torch.tensor([4] * 4))
        )
        where = (place / "lm", place / "new.csv", place / "like.csv", place / "c.csv")
        _, found = prompt_classes(*where, Prompting(shots=2, draws=3), quiet=True)
        assert found == Accuracy(pytest.approx(0.5), pytest.approx(0.5), 0.5, 2)

    def test_no_shots_are_asked_once(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        oracle = Oracle(told=False)
        monkeypatch.setattr(Generator, "log_likelihood", lambda _, *asked: oracle(*asked))
        where = (place / "lm", place / "like.csv", place / "like.csv", place / "c.csv")
        _, found = prompt_classes(*where, Prompting(shots=0, draws=9), quiet=True)
        assert found == Accuracy(1.0, None, 0.5, 4) and str(found) == "accuracy 100.0 %, chance 50.0 %, 4 labels"
        assert [prompt for prompt, _ in oracle.asked[::2]] == [
            f"{text}\nlabel:" for text in ("sun", "moon", "fire", "ice")
        ]

    def test_columns_by_meaning(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The data's labels are in the column of that name too, where it has one."""
        monkeypatch.setattr(Generator, "log_likelihood", lambda _, *asked: Oracle(told=False)(*asked))
        (place / "like.csv").write_text("body,kind,label\nsun,warm,1\nmoon,cold,2\n")
        (place / "new.csv").write_text("body,kind\nfire,warm\n")
        (place / "bare.csv").write_text("body\nfire\n")
        (place / "plain.csv").write_text("text\nfire\n")
        for name, rows_scored in (("new.csv", 1), ("bare.csv", 0), ("plain.csv", 0)):
            _, found = prompt_classes(
                place / "lm", place / name, place / "like.csv", place / "c.csv", Prompting(shots=2),
                ("text=body", "label=kind"), quiet=True,
            )  # fmt: skip
            assert (found.rows if found else 0) == rows_scored
            assert [row["label"] for row in rows(place / "c.csv")] == ["warm"]

    def test_refuses(self, place: Path) -> None:
        where = (place / "lm", place / "like.csv", place / "like.csv")
        with pytest.raises(UserError, match="--shots 5: --like has 4 labelled texts"):
            prompt_classes(*where, place / "c.csv", Prompting(shots=5))
        with pytest.raises(UserError, match=r"c.txt: allowed is a file that ends in .csv"):
            prompt_classes(*where, place / "c.txt", Prompting(shots=1))
        with pytest.raises(UserError, match="generates text"):
            prompt_classes(place, *where[1:], place / "c.csv", Prompting(shots=1))
        assert not (place / "c.csv").exists()


def test_a_model_that_learned_the_pattern(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A real network that has read such lists names the classes of new texts, with shots and without."""
    kinds = {"sun": "warm", "fire": "warm", "moon": "cold", "ice": "cold"}
    order = Draw(0, 0, torch.zeros(1, dtype=torch.int64)).integers("order", 4, 2000)[0].tolist()
    lines = [f"{text}: {kinds[text]}\n" for text in (list(kinds)[number] for number in order)]
    (tmp_path / "lists.txt").write_text("".join(lines))
    recipe = selfsup.recipe(
        "causal_lm", data=tmp_path / "lists.txt", tokenizer="char", context=32, layers=1, heads=2, width=32, batch=32,
        steps=150,
    )  # fmt: skip
    selfsup.train(recipe, tmp_path / "run", quiet=True)
    (tmp_path / "like.csv").write_text("text,label\nsun,warm\nmoon,cold\nsun,warm\nmoon,cold\n")
    (tmp_path / "new.csv").write_text("text,label\nfire,warm\nice,cold\nice,warm\n")
    words = f"classify {tmp_path}/run {tmp_path}/new.csv --like {tmp_path}/like.csv --out {tmp_path}/c.csv".split()
    for shots in (["--shots", "0"], ["--shots", "2", "--draws", "3", "--seed", "1"]):
        assert cli.run([*words, *shots, "--prompt", r"{text}: {label}\n"]) == 0
        assert [row["label"] for row in rows(tmp_path / "c.csv")] == ["warm", "cold", "cold"]
        assert all(float(row["probability"]) > 0.8 for row in rows(tmp_path / "c.csv"))
        deviation = " ± 0.0" if shots[1] == "2" else ""
        said = f"accuracy 66.7{deviation} %, chance 66.7 %, 3 labels"
        assert capsys.readouterr().out.splitlines() == [f"{tmp_path}/c.csv", said]

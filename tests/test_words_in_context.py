"""Words in context: the tokens of a word, the threshold, a stub that knows the sense, and pairs as users have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import selfsup
from selfsup.data.tokenizer import Template, train_tokenizer
from selfsup.eval import words_in_context
from selfsup.eval.word_pairs import open_word_pairs, spot
from selfsup.eval.words_in_context import overlaps, similarities, threshold, word_vectors
from selfsup.objective import load_objective
from selfsup.run import Run
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape
from selfsup.training import train

SENSES = {  # told apart by other words, and by the letter u
    "river": ("the bank by muddy river water", "muddy water along the river bank"),
    "money": ("this bank lends cash loans daily", "loans in cash from that bank"),
}


def pair(first: str, second: str, same: object, **more: object) -> dict[str, object]:
    return {"word": "bank", "sentence1": first, "sentence2": second, "label": same, **more}


def written(file: Path, records: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(load_objective("masked_lm").tiny(), tmp_path_factory.mktemp("wic") / "run", quiet=True)


def pairs_of(folder: Path) -> Path:
    """Pairs of a word in two senses, told by other words of the sentences, each sentence with numbers of its own."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 60)):
        records = []
        for _ in range(count):
            senses = generator.choice(["river", "money"], 2)
            first, second = (f"{SENSES[sense][generator.integers(2)]} {generator.integers(10**6)}" for sense in senses)
            records.append(pair(first, second, bool(senses[0] == senses[1])))
        written(folder / f"{part}.jsonl", records)
    return folder


# Where the word is


@pytest.mark.parametrize(
    ("word", "sentence", "found"),
    [
        ("bank", "The bank.", "bank"),
        ("bank", "embankment, Bank", "Bank"),
        ("carry", "He carried it home", "carried"),
        ("run", "She is running", "running"),
        ("go", "good men are gone", "good"),
        ("walk", "He walks and walked", "walks"),
        ("look up", "please LOOK UP there", "LOOK UP"),
        ("take", "He took it", None),
        ("c++", "in C++ it is", "C++"),
    ],
)
def test_the_word_is_spotted(word: str, sentence: str, found: str | None) -> None:
    span = spot(word, sentence)
    assert (span and sentence[slice(*span)]) == found


# Vectors


@pytest.mark.parametrize("family", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_vectors_are_those_of_the_tokens_of_the_word(family: str, kind: str) -> None:
    sentences = ["déjà vu on the bank of a river", "bank", "one more bank", "some 东京 bank 🙂"]
    spans = [spot("bank", sentence) for sentence in sentences]
    torch.manual_seed(0)
    tokenizer = train_tokenizer(kind, 300, sentences * 3)
    encoder = TextEncoder.create(family, tokenizer, 64, Shape(2, 2, 16))
    found = word_vectors(encoder, sentences, spans)
    marks = Template.of(encoder.tokenizer)
    assert len(marks.start) == (family == "encoder")
    for vector, sentence, (start, stop) in zip(found, sentences, spans, strict=True):
        pieces = [encoder.tokenizer(part, add_special_tokens=False)["input_ids"] for part in
                  (sentence[: max(start - 1, 0)], sentence[max(start - 1, 0) : stop], sentence[stop:])]  # fmt: skip
        ids = [*marks.start, *pieces[0], *pieces[1], *pieces[2], *marks.stop]
        with torch.no_grad():
            states = encoder.module.eval()(torch.tensor([ids])).last_hidden_state[0]
        own = len(marks.start) + len(pieces[0]), len(marks.start) + len(pieces[0]) + len(pieces[1])
        if kind == "byte" and start:
            own = own[0] + 1, own[1]  # the space is a token by itself
        torch.testing.assert_close(vector, states[slice(*own)].mean(0), rtol=1e-4, atol=1e-5)


def test_of_a_long_sentence_the_part_around_the_word_is_read() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder.create("encoder", train_tokenizer("byte", 0, []), 16, Shape(1, 2, 16))
    text = "x" * 40 + " bank " + "y" * 40
    vector = word_vectors(encoder, [text], [(41, 45)])[0]
    around = text[36:50]  # 14 tokens and two marks
    torch.testing.assert_close(vector, word_vectors(encoder, [around], [(5, 9)])[0])
    for start, stop in ((0, 3), (83, 86), (0, 86)):
        assert word_vectors(encoder, [text], [(start, stop)]).isfinite().all()


class Knowing(nn.Module):
    """The vector of every token says whether a certain one is in the sentence."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token, self.weight = token, nn.Parameter(torch.zeros(1))

    def forward(self, ids: Tensor, attention_mask: Tensor, use_cache: bool) -> BaseModelOutput:
        wet = (ids == self.token).any(1).float()
        states = torch.stack([wet, 1 - wet], 1)[:, None].expand(-1, ids.shape[1], -1)
        return BaseModelOutput(last_hidden_state=states)


class Stub(TextEncoder):
    """An encoder around any module."""

    def __init__(self, module: nn.Module, tokenizer: object) -> None:
        self._module, self.tokenizer, self.context = module, tokenizer, 64

    @property
    def module(self) -> nn.Module:
        return self._module


def test_who_knows_the_sense_is_always_right(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer("byte", 0, [])
    knowing, folder = Stub(Knowing(tokenizer.convert_tokens_to_ids("u")), tokenizer), pairs_of(tmp_path)
    pairs = open_word_pairs(folder)
    near = similarities(knowing, pairs.test)
    assert ((near > 0.5) == [one.same for one in pairs.test]).all()

    made = words_in_context.encoders_of
    monkeypatch.setattr(words_in_context, "encoders_of", lambda run: {**made(run), "run": knowing})
    rows = selfsup.evaluate(run.folder, folder, task="words-in-context", quiet=True)
    assert [row["mean"] for row in rows if row["representation"] == "run"][:2] == [1, 1]


# The threshold


@pytest.mark.parametrize(
    ("similarity", "same", "expected", "right"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.5, 4),
        ([0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1], 0.5, 4),
        ([0.5, 0.5, 0.5], [1, 1, 0], -np.inf, 2),
        ([0.5, 0.5, 0.5], [1, 0, 0], np.inf, 2),
        ([0.3, 0.2, 0.1], [0, 0, 0], np.inf, 3),
        ([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0], 0.7, 3),
    ],
)
def test_threshold(similarity: list[float], same: list[int], expected: float, right: int) -> None:
    values, labels = np.array(similarity), np.array(same, bool)
    chosen = threshold(values, labels)
    assert chosen == pytest.approx(expected) and ((values > chosen) == labels).sum() == right


def test_no_other_threshold_is_better() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        values, labels = generator.integers(0, 12, 30) / 12, generator.random(30) < 0.5
        best = max(((values > cut) == labels).sum() for cut in (-1.0, *np.unique(values)))
        assert ((values > threshold(values, labels)) == labels).sum() == best


# Pairs as users have them


def test_other_words_give_senses_away(tmp_path: Path) -> None:
    pairs = open_word_pairs(pairs_of(tmp_path))
    assert pairs.split == "test" and (len(pairs.fit), len(pairs.test)) == (80, 60)
    near, scored = overlaps(pairs)
    right = (scored > threshold(near, np.array([one.same for one in pairs.fit]))) == [one.same for one in pairs.test]
    assert right.mean() > 0.9


def test_a_lone_file_is_cut_by_content(tmp_path: Path) -> None:
    folder = pairs_of(tmp_path)
    pairs = open_word_pairs(folder / "train.jsonl")
    assert pairs.split == "half by content" and 20 < len(pairs.fit) < 60 and len(pairs.fit) + len(pairs.test) == 80
    lines = (folder / "train.jsonl").read_text().splitlines()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "turned.jsonl").write_text("\n".join(lines[::-1]) + "\n\n")
    turned = open_word_pairs(tmp_path / "other")
    assert set(turned.test) == set(pairs.test) and set(turned.fit) == set(pairs.fit)


def test_a_test_part_without_labels_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As SuperGLUE has WiC."""
    folder = pairs_of(tmp_path)
    (folder / "test.jsonl").rename(folder / "val.jsonl")
    written(folder / "test.jsonl", [{"word": "bank", "sentence1": "a bank", "sentence2": "the bank"}])
    with caplog.at_level("INFO", "selfsup"):
        pairs = open_word_pairs(folder)
    assert pairs.split == "valid" and len(pairs.test) == 60 and "no labels" in caplog.text


def test_places_may_be_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = {"start1": 10, "end1": 14, "start2": 0, "end2": 2}
    records = [pair("bank on a bank", f"no such word {number}", number % 2, **places) for number in range(20)]
    records += [pair(f"bank {number}", f"banks {number}", number % 2) for number in range(20)]
    records += [pair("bank", "no such word", 1)]
    found = open_word_pairs(written(tmp_path / "pairs.jsonl", records))
    spans = {one.spans for one in (*found.fit, *found.test)}
    assert spans == {((10, 14), (0, 2)), ((0, 4), (0, 5))}
    assert "1 of 41 pairs left out" in caplog.text


GOOD = pair("a bank", "the bank", True)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([json.dumps(GOOD), json.dumps({**GOOD, "sentence2": None})], ("line 2", "'sentence2'")),
        ([json.dumps({name: value for name, value in GOOD.items() if name != "word"})], ("line 1", "no field 'word'")),
        (
            [json.dumps(GOOD), "", json.dumps({k: GOOD[k] for k in ("word", "sentence1", "label")})],
            ("line 3", "sentence2"),
        ),
        ([json.dumps({**GOOD, "label": "T"})], ("line 1", "'label'", "true or false")),
        ([json.dumps({**GOOD, "start1": 2, "end1": 99})], ("line 1", "'end1' 99", "6")),
        ([json.dumps({**GOOD, "start2": 2})], ("line 1", "'end2' None")),
        (["{"], ("line 1", "no JSON")),
        (["[1]"], ("line 1", "no JSON object")),
        ([""], ("is empty",)),
        ([json.dumps(pair(f"a bank {k}", "the bank", True)) for k in range(20)], ("label true", "some false")),
        ([json.dumps(pair("a dog", "the bank", True))], ("0 of 1 pairs",)),
    ],
)
def test_what_is_no_pair_is_refused(tmp_path: Path, lines: list[str], said: tuple[str, ...]) -> None:
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(selfsup.UserError) as error:
        open_word_pairs(tmp_path / "pairs.jsonl")
    assert "\n" not in str(error.value) and all(words in str(error.value) for words in said), error.value


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(selfsup.UserError, match="no such file"):
        open_word_pairs(tmp_path / "nothing.jsonl")
    with pytest.raises(selfsup.UserError, match=r"no train\.jsonl"):
        open_word_pairs(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(b'{"word": "\xff"}')
    with pytest.raises(selfsup.UserError, match="not UTF-8"):
        open_word_pairs(tmp_path)


# The task


def test_a_run_beside_its_words(run: Run, tmp_path: Path) -> None:
    folder = pairs_of(tmp_path)
    rows = selfsup.evaluate(run.folder, folder, task="words-in-context", quiet=True)
    found = {(row["representation"], row["metric"]): row for row in rows[:-1]}
    assert found.keys() == {(who, metric) for who in ("run", "untrained", "raw") for metric in ("accuracy", "AUC")}
    assert found["raw", "accuracy"]["mean"] > 0.9 and found["raw", "AUC"]["mean"] > 0.9
    assert all(row["data"] == str(folder) and row["split"] == "test" for row in rows)
    assert rows[-1]["task"] == "verdict" and "senses of a word" in rows[-1]["text"]
    assert rows == run.lines("evals.jsonl")[-len(rows) :]


def test_the_task_needs_pairs_and_a_run_on_text(run: Run, tmp_path: Path) -> None:
    with pytest.raises(selfsup.UserError, match="needs --data"):
        selfsup.evaluate(run.folder, task="words-in-context", quiet=True)
    with pytest.raises(selfsup.UserError, match="neither --columns nor --fine-tune"):
        selfsup.evaluate(run.folder, tmp_path, fine_tune=True, task="words-in-context", quiet=True)
    recipe = selfsup.recipe("simclr", data="sample:digits", hidden=8, output=8, batch=64, steps=1)
    train(recipe, tmp_path / "pictures", quiet=True)
    with pytest.raises(selfsup.UserError, match="runs on text"):
        selfsup.evaluate(tmp_path / "pictures", pairs_of(tmp_path), task="words-in-context", quiet=True)

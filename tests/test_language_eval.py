"""Scores of language models: masked and causal ones against slow loops, n-grams in rows, bytes of tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import selfsup
from selfsup.data.draw import Draw
from selfsup.data.text import TextReader
from selfsup.data.tokenizer import Encoding, train_tokenizer, with_template
from selfsup.eval.hidden import Hidden, token_sizes
from selfsup.eval.language import window_losses
from selfsup.eval.ngram import NGram
from selfsup.objective import load_objective
from selfsup.prepare import prepare
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.training import train

TEXT = "The quick brown fox, déjà vu 东京 में नमस्ते 🙂 — he said: 'hello worlds'.\nNew line  two spaces\n\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts of two halves, the second of which follows from the first."""
    folder = tmp_path_factory.mktemp("texts")
    generator = np.random.default_rng(0)
    for part, count in (("train", 300), ("valid", 60)):
        rows = []
        for _ in range(count):
            words = generator.choice(["sun", "moon", "tree", "river", "stone", "wind"], generator.integers(2, 6))
            rows.append({"text": " ".join([*words, *words[::-1]])})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def runs(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Short runs of both kinds."""
    folder = tmp_path_factory.mktemp("runs")
    shape = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "batch": 8, "steps": 20, "rate": 1e-2}
    return {
        name: train(selfsup.recipe(name, data=texts, context=context, **shape), folder / name, quiet=True)
        for name, context in (("causal_lm", 32), ("masked_lm", 96))
    }


def stores(run: Run) -> tuple:
    prepared = prepare(run.data, None, False, Progress(False))
    return prepared.train, prepared.held_out


@pytest.mark.parametrize("name", ["causal_lm", "masked_lm"])
def test_sums_of_a_row_equal_a_slow_loop(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    objective = run.objective().eval()
    reader = load_objective(name).reader(run.recipe.config, stores(run)[1])
    nats, count, correct = window_losses(objective, reader, Progress(False))
    assert nats.shape == (len(reader),)
    expected, right, asked = np.zeros(len(reader)), 0, 0
    for row in range(len(reader)):
        draw = Draw(0, -1, torch.tensor([row]))
        views = objective.views(reader.gather(draw), draw)
        places = views["counted"][0].nonzero()[:, 0].tolist()
        size = int(views["length"][0]) if "length" in views else max(places) + 1
        with torch.no_grad():
            logits = objective.network(views["input"][:, :size]).logits[0].double()
        for place in places:
            token = int(views["target"][0, place])
            expected[row] -= float(logits[place].log_softmax(0)[token])
            right, asked = right + (int(logits[place].argmax()) == token), asked + 1
    found = [(nats, count, correct)]
    if name == "masked_lm":
        found.append(Hidden.of(objective, reader).told_by_network(objective.network, Progress(False)))
    for nats, count, correct in found:
        np.testing.assert_allclose(nats, expected, rtol=1e-4)
        assert (count, correct) == (asked, right)


def test_a_masked_run_beside_its_baselines(runs: dict[str, Run]) -> None:
    run = runs["masked_lm"]
    rows = selfsup.evaluate(run.folder, quiet=True)
    found = {(row["representation"], row["metric"]): row for row in rows[:-1]}
    whos, metrics = {who for who, _ in found}, {metric for _, metric in found}
    assert whos == {"run", "untrained", "unigram", "5-gram"} and len(found) == 16
    assert metrics == {"nats per masked token", "pseudo-perplexity", "masked accuracy", "bits per byte"}
    for who in whos:
        nats = found[who, "nats per masked token"]["mean"]
        assert found[who, "pseudo-perplexity"]["mean"] == pytest.approx(math.exp(nats))
        assert found[who, "bits per byte"]["mean"] == pytest.approx(nats / math.log(2))  # a token is a byte
    assert found["run", "nats per masked token"]["mean"] < found["untrained", "nats per masked token"]["mean"]
    assert found["5-gram", "masked accuracy"]["mean"] > 1.5 * found["unigram", "masked accuracy"]["mean"]
    assert "bits per byte saved on held-out text: 5-gram is better" in rows[-1]["text"]


def test_causal_scores_stand_as_they_were(runs: dict[str, Run]) -> None:
    run = runs["causal_lm"]
    rows = selfsup.evaluate(run.folder, quiet=True)[:-1]
    found = {(row["representation"], row["metric"]): row["mean"] for row in rows}
    assert {who for who, _ in found} == {"run", "untrained", "unigram", "5-gram", "xz"} and len(found) == 17
    past, held_out = stores(run)
    nats, correct = NGram.fit(past.read(0, len(past)), len(past.tokenizer)).score(held_out.read(0, len(held_out)), 32)
    assert found["5-gram", "nats per token"] == pytest.approx(nats.mean())
    assert found["5-gram", "next-token accuracy"] == pytest.approx(correct.mean())
    size = len(held_out.cut(1, len(held_out)).text().encode())
    assert found["5-gram", "bits per byte"] == pytest.approx(nats.sum() / math.log(2) / size)


def test_rows_that_are_texts(runs: dict[str, Run], texts: Path) -> None:
    """Here most texts are shorter than half a window; n-grams see no other text than the row's own."""
    run = runs["masked_lm"]
    past, held_out = stores(run)
    reader = load_objective("masked_lm").reader(run.recipe.config, held_out)
    assert isinstance(reader, TextReader) and len(reader) == 60
    hidden = Hidden.of(run.untrained(), reader)
    model = NGram.fit(past.read(0, len(past)), len(past.tokenizer))
    nats, count, correct = hidden.told_by(model)
    again = Hidden.of(run.objective(), reader)
    assert hidden.counted.equal(again.counted) and count == hidden.counted.sum() == hidden.size(past.tokenizer)
    assert (hidden.counted.sum(1) / (hidden.length - 2) - 0.15).abs().max() < 0.05
    right = 0
    for row in range(len(reader)):
        own = held_out.read(reader.start[row], reader.stop[row]).astype(np.int64)
        places = np.flatnonzero(hidden.counted[row]) - 1  # behind the mark
        assert np.array_equal(own[places], hidden.tokens[row][hidden.counted[row]])
        found, told = model.score_rows(own[None], np.array([len(own)]))
        assert nats[row] == pytest.approx(found[0, places].sum())
        right += int(told[0, places].sum())
    assert correct == right


# n-grams in rows


def test_rows_of_an_n_gram_equal_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token is told as by a unigram, others as in a window; other rows and what lies beyond do not count."""
    generator = np.random.default_rng(0)
    model = NGram.fit(generator.integers(0, 5, 400), 7)
    tokens, length = generator.integers(0, 7, (9, 12)), np.array([12, 3, 1, 0, 7, 12, 2, 5, 9])
    nats, correct = model.score_rows(tokens, length)
    for row, size in enumerate(length.tolist()):
        expected, guess = model.score(tokens[row, :size], 100)
        np.testing.assert_array_equal(nats[row, 1:size], expected)
        np.testing.assert_array_equal(correct[row, 1:size], guess)
        assert not nats[row, size:].any() and not correct[row, size:].any()
    first, _ = model.score_rows(np.arange(7)[:, None], np.ones(7, int))  # of each token, behind nothing
    assert np.exp(-first).sum() == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(nats[length > 0, 0], first[tokens[length > 0, 0], 0])
    monkeypatch.setattr("selfsup.eval.ngram.BLOCK", 30)
    again = model.score_rows(tokens, length)
    assert np.array_equal(nats, again[0]) and np.array_equal(correct, again[1])


# Bytes of tokens


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_sizes_of_tokens_add_up_to_the_text(kind: str) -> None:
    tokenizer = with_template(train_tokenizer(kind, 300, [TEXT * 3]))
    sizes = token_sizes(tokenizer)
    (ids,) = Encoding(tokenizer, kind)([TEXT])
    assert sizes[ids].sum() == len(TEXT.encode())
    assert sizes[list(tokenizer.all_special_ids)].sum() == 0


def test_sizes_of_word_pieces_count_their_space_once() -> None:
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "walk": 2, "##ing": 3, ".": 4}, unk_token="[UNK]"))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    sizes = token_sizes(PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]"))
    assert sizes[[1, 2, 3]].tolist() == [2, 5, 3] and sizes[4] in (1, 2)


def test_sizes_of_sentence_pieces_with_bytes() -> None:
    pieces = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    pieces.decoder = decoders.Sequence(parts)
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    pieces.train_from_iterator(["the quick brown fox he said"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>", eos_token="</s>")
    ids = tokenizer("the fox said 东京", add_special_tokens=False)["input_ids"]
    assert token_sizes(tokenizer)[ids].sum() == len(" the fox said 东京".encode())

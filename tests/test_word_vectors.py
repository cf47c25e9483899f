"""Vectors of words: the update against autograd, the vocabulary, sentences, near words, tests of words, exports."""

from __future__ import annotations

import json
import math
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import regex
import torch
import torch.nn.functional as F

import selfsup
from contract.case import load_case
from selfsup import cli
from selfsup.data.draw import Draw
from selfsup.data.source import open_source
from selfsup.data.tokens import COUNTS, open_tokens
from selfsup.data.word_tokenizer import (
    WORD,
    WordEncoding,
    WordRules,
    count_words,
    frequent_words,
    plain,
    reads_words,
    word_tokenizer,
)  # fmt: skip
from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.eval.word_tests import open_word_tests, spelled_alike
from selfsup.exports import export
from selfsup.nn.word_table import WordTable, ngrams
from selfsup.objective import ClosedForm
from selfsup.objectives.word2vec import Config, Word2Vec
from selfsup.ops.logistic import judge
from selfsup.ops.word_blocks import learn
from selfsup.ops.word_contexts import alias, bits, draw_noise, keep_chances, show
from selfsup.predict import near
from selfsup.run import Run
from selfsup.runtime import Runtime
from selfsup.steps import steps_of
from selfsup.training import resume, train
from selfsup.word_vectors import WordVectors

END = 0


def shown(tokens: list[list[int]], window: int = 3, keep: float = 1.0, size: int = 50, seed: int = 0):
    """What `show` and `draw_noise` make of rows of text."""
    ids = np.array(tokens)
    draw = Draw(seed, 0, torch.arange(len(ids)))
    streams = torch.stack([draw.stream("keep"), draw.stream("window")], 1).numpy().view(np.uint64)
    words, kept = np.zeros(ids.shape, np.int32), np.zeros(len(ids), np.int32)
    spans = np.zeros((*ids.shape, 2), np.int32)
    show(ids, END, np.full(size, keep, np.float32), window, streams, words, spans, kept)
    return words, spans, kept


# What is shown


def test_the_compiled_numbers_are_those_of_draw():
    draw = Draw(3, 1, torch.tensor([5, 900]))
    state = draw.stream("some").numpy().view(np.uint64)
    expected = draw.integers("some", 1 << 62, 7)
    for row in range(2):
        got = [int(bits(state[row], i) >> np.uint64(1)) % (1 << 62) for i in range(7)]
        assert got == expected[row].tolist()


def test_windows_end_with_sentences_and_never_hold_more_than_asked():
    words, spans, kept = shown([[1, 2, 3, 4, END, 5, 6, END, END, 7, 8, 9, 10, 11]], window=2)
    assert kept[0] == 11 and words[0, :11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    sentence = [0] * 4 + [1] * 2 + [2] * 5
    for place, (low, high) in enumerate(spans[0, :11].tolist()):
        assert low <= place < high and len({sentence[other] for other in range(low, high)}) == 1
        assert place - low <= 2 and high - 1 - place <= 2
    widths = [high - low for low, high in spans[0, :11].tolist()]
    assert len(set(widths)) > 1, "windows do not shrink"


def test_the_radius_is_uniform():
    _, spans, _ = shown([[1] * 20_000], window=4)
    radius = spans[0, 100:-100, 1] - np.arange(100, 19_900) - 1
    assert np.bincount(radius, minlength=5)[1:] / len(radius) == pytest.approx([0.25] * 4, abs=0.015)


def test_frequent_words_are_left_out_as_often_as_the_formula_says():
    counts = np.array([0, 9_000, 900, 100])
    keep = keep_chances(counts, 0.01)
    assert keep[1] == pytest.approx(math.sqrt(0.01 / 0.9) + 0.01 / 0.9, rel=1e-5) and keep[3] == 1.0
    assert (keep_chances(counts, 0) == 1).all()
    _, _, kept = shown([[1] * 20_000], keep=0.3)
    assert kept[0] / 20_000 == pytest.approx(0.3, abs=0.015)


def test_noise_is_drawn_in_proportion():
    chances = np.array([0.0, 5, 1, 10, 0.5, 3]) ** 0.75
    below, other = alias(chances)
    noise = np.zeros((1, 4000, 8), np.int32)
    draw_noise(below, other, np.array([77], np.uint64), np.array([16_000], np.int32), 4, noise)
    share = np.bincount(noise.ravel(), minlength=6) / noise.size
    assert share == pytest.approx(chances / chances.sum(), abs=0.01) and share[0] == 0


# The update


@pytest.fixture(params=["skip-gram", "cbow"])
def method(request) -> str:
    return request.param


def tables(spelling: tuple[int, int] | None = None, width: int = 6):
    """A table of twenty words, another, and a block's text, noise included."""
    torch.manual_seed(0)
    names = ["", *(f"word{number * number}" for number in range(1, 20))]
    table = WordTable(names, width, spelling, 30)
    with torch.no_grad():
        table.weight.normal_(0, 0.5)
    outputs = torch.randn(20, width) * 0.5
    words, spans, kept = shown([[3, 4, 3, 7, 9, END, 3, 12, 5, END, 8, END, 2, 4, 9]], window=3)  # words come twice
    noise = np.array([[[5, 3, 19, 5], [2, 9, 9, 1]]], np.int32)
    return table, outputs, words, spans, kept, noise


@pytest.mark.parametrize(("spelling", "width"), [(None, 6), (None, 19), ((3, 4), 8)])
def test_a_block_follows_the_gradient_of_the_written_out_loss(method, spelling, width):
    table, outputs, words, spans, kept, noise = tables(spelling, width)
    rate, share, block = 0.1, 5 / 4, 8
    asks = table.weight.detach().clone().requires_grad_()
    answers = outputs.clone().requires_grad_()
    total = told = 0
    with torch.no_grad():
        moving = asks.clone(), answers.clone()
    for start in range(0, int(kept[0]), block):  # block after block, each from where the one before left off
        asks, answers = (one.detach().clone().requires_grad_() for one in moving)

        def vector(word: int, asks: torch.Tensor = asks) -> torch.Tensor:
            rows = [word, *table.shared(["", *(f"word{n * n}" for n in range(1, 20))][word])]
            return sum(asks[row] for row in rows) / math.sqrt(len(rows))  # type: ignore[return-value]

        loss = torch.zeros(())
        for place in range(start, min(start + block, int(kept[0]))):
            low, high = spans[0, place]
            near = [int(words[0, other]) for other in range(low, high) if other != place]
            center = int(words[0, place])
            if not near:
                continue
            asked = vector(center) if method == "skip-gram" else sum(map(vector, near)) / len(near)  # type: ignore[arg-type]
            for word in near if method == "skip-gram" else [center]:
                loss = loss - F.logsigmoid(asked @ answers[word])
                loss = loss - share * sum(F.logsigmoid(-asked @ answers[int(n)]) for n in noise[0, start // block])
                told += 1
        loss.backward()
        total += float(loss.detach())
        assert asks.grad is not None and answers.grad is not None
        moving = asks.detach() - rate * asks.grad, answers.detach() - rate * answers.grad
    mine, other = table.weight.detach().numpy().copy(), outputs.numpy().copy()
    parts, offsets = table.parts.numpy(), table.offsets.numpy()
    found = learn(mine, parts, offsets, other, words, spans, kept, noise, share, rate, method == "cbow")
    assert found[0] == pytest.approx(total, rel=1e-5) and found[1] == told
    assert np.abs(mine - moving[0].numpy()).max() < 1e-5 and np.abs(other - moving[1].numpy()).max() < 1e-5
    assert np.abs(mine - table.weight.detach().numpy()).max() > 1e-2


def objective(**settings: object) -> tuple[Word2Vec, dict, Draw]:
    """The tiny objective with other settings, its tables at random, and a batch."""
    case = load_case("word2vec")
    made = case.objective()
    assert isinstance(made, Word2Vec)
    made.config = Config(**{**{"row": 128, "shared": 8}, **settings})  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        made.inputs.weight.normal_(0, 0.3)
        made.outputs.normal_(0, 0.3)
    batch, draw = case.batch(range(8))
    return made, batch, draw


def test_what_is_learned_from_has_the_loss_that_is_written_out(method):
    made, batch, draw = objective(method=method)
    written = {name: value.detach() for name, value in made(batch, draw).items()}
    learned = made.learn(batch, draw, 1e-9)
    assert float(learned["loss"]) == pytest.approx(float(written["loss"]), rel=1e-5)
    assert int(learned["count"]) == int(written["count"])
    assert learned["loss"].dtype == learned["epoch_loss"].dtype == torch.float64


def test_a_small_step_goes_down_the_gradient_of_what_is_written_out(method):
    made, batch, draw = objective(method=method, threads=1)
    losses = made(batch, draw)
    (losses["loss"] * losses["count"]).backward()
    before = [weight.detach().clone() for weight in made.parameters()]
    made.learn(batch, draw, 1e-4)
    times = 3 if method == "cbow" else 1
    for weight, old in zip(made.parameters(), before, strict=True):
        assert weight.grad is not None
        found = (old - weight.detach()) / (1e-4 * times)
        assert (found - weight.grad).abs().max() < 0.02 * weight.grad.abs().max()


def test_the_epochs_loss_is_the_mean_of_its_pairs():
    made, batch, draw = objective()
    first, second = made.learn(batch, draw, 0.1), made.learn(batch, draw, 0.1)
    mean = (first["loss"] * first["count"] + second["loss"] * second["count"]) / (first["count"] + second["count"])
    assert float(second["epoch_loss"]) == pytest.approx(float(mean), rel=1e-12)
    other = Draw(draw.seed, draw.epoch + 1, draw.rows)
    third = made.learn(batch, other, 0.1)
    assert float(third["epoch_loss"]) == pytest.approx(float(third["loss"]), rel=1e-12)


def test_threads(monkeypatch: pytest.MonkeyPatch):
    """Without a word they differ by little; deterministic ones repeat themselves, and learn as well."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    made, batch, draw = objective(threads=1)
    one = [float(made.learn(batch, draw, 0.1)["loss"]) for _ in range(6)]
    found = []
    for _ in range(2):
        made, batch, draw = objective(threads=3, deterministic=True)
        losses = [float(made.learn(batch, draw, 0.1)["loss"]) for _ in range(6)]
        found.append((losses, made.inputs.weight.detach().clone(), made.outputs.detach().clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][2], found[1][2])
    made, batch, draw = objective(threads=3)
    free = [float(made.learn(batch, draw, 0.1)["loss"]) for _ in range(6)]
    for losses in (found[0][0], free):
        assert losses[-1] < losses[0] and losses[-1] == pytest.approx(one[-1], rel=0.2)


def test_it_is_for_one_process():
    case = load_case("word2vec")
    made, runtime = case.objective(), Runtime("float32", on_cpu=True)
    runtime.world = 2
    assert isinstance(made, ClosedForm)
    with pytest.raises(UserError, match="one process"):
        steps_of(made, case.recipe, runtime)


# Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat's 3.14 hats, don\N{RIGHT SINGLE QUOTATION MARK}t!", "the cat's 3.14 hats don't"),
        ("e.g. 1,000 well-known a_b", "e.g 1,000 well known a_b"),
        ("हिन्दी में", "हिन्दी में"),
        ("漢字とカタカナ", "漢 字 と カタカナ"),
        ("ΟΔΟΣ Straße", "οδοσ straße"),
        ("l'été (naïve)", "l'été naïve"),
    ],
)
def test_words_are_cut_alike_by_both_engines(text, words):
    assert regex.findall("(?V1)" + WORD, plain(text, "lower")) == words.split()
    tokenizer = word_tokenizer(words.split(), "lower")
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == words.split()
    assert reads_words(tokenizer) and not reads_words(load_case("causal_lm").prepared.train.tokenizer)


def test_encoding_leaves_out_unknown_words_and_ends_sentences():
    tokenizer = word_tokenizer(["sun", "moon"], "lower")
    ids = tokenizer.get_vocab()
    sun, moon, end = ids["sun"], ids["moon"], tokenizer.eos_token_id
    text = "Sun, star moon\n\n\nmoon\nstar <|endoftext|> sun [MASK]"
    assert next(WordEncoding(tokenizer, "keep")([text])).tolist() == [sun, moon, end, moon, end, sun]
    assert next(WordEncoding(tokenizer, "join")([text])).tolist() == [sun, moon, end, moon, sun]
    kept = word_tokenizer(["Sun"], "keep")
    assert next(WordEncoding(kept, "keep")(["Sun sun"])).tolist() == [kept.get_vocab()["Sun"]]


def test_words_are_counted_in_bounded_memory():
    texts = [" ".join(f"rare{block}x{n}" for n in range(50)) + " often" * 5 for block in range(40)]
    counts = count_words(texts, "lower", room=200)
    assert counts["often"] == 200 and len(counts) <= 250
    assert count_words(["a A b"], "lower") == Counter(a=2, b=1)
    assert count_words(["a A b"], "keep") == Counter(a=1, A=1, b=1)


def test_the_vocabulary_is_ordered_and_cut():
    counts = Counter(the=9, cat=5, a=5, dog=1)
    assert frequent_words(counts, 2, None) == ["the", "a", "cat"]
    assert frequent_words(counts, 1, 2) == ["the", "a"]
    with pytest.raises(UserError, match="--min-count 5 or less"):
        frequent_words(counts, 6, None)
    with pytest.raises(UserError, match="1 different words"):
        frequent_words(Counter(same=100), 5, None)


def test_the_store_holds_words_and_their_counts(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one two two three\n" * 20 + "odd\n")
    part = open_source(str(tmp_path / "a.txt")).parts["train"]
    rules = WordRules(5)
    train_store, held_out = open_tokens(part, None, "word", None, tmp_path / "cache", lambda *_: None, "keep", rules)
    counts = np.load(Path(train_store.tokenizer.name_or_path) / COUNTS)
    words = train_store.tokenizer.convert_ids_to_tokens(list(range(len(counts))))
    found = {word: int(count) for word, count in zip(words, counts, strict=True) if count}
    ids = train_store.read(0, len(train_store))
    assert found == {words[number]: int((ids == number).sum()) for number in np.unique(ids)}
    assert found["two"] in (2 * found["one"], 2 * found["one"] - 2) and "odd" not in words and len(held_out) > 0


def test_ngrams():
    assert ngrams("cat", 3, 4) == ["<ca", "cat", "at>", "<cat", "cat>"]
    assert ngrams("a", 3, 6) == []
    table = WordTable(["cat", "cats", "x"], 8, (3, 4), 50)
    rows = [0, *table.shared("cat")]
    assert torch.allclose(table(torch.tensor([[0, 2]]))[0, 0], table.weight[rows].sum(0) / len(rows) ** 0.5)
    assert table.spelled("x") is None or len(table.shared("x")) > 0
    spelled = table.spelled("catz")
    assert spelled is not None and spelled.norm() > 0
    assert WordTable(["cat"], 8, None, 50).spelled("dog") is None


# A run


SENTENCES = """the king rules the land and the people of the kingdom
the queen rules the land and the people of the kingdom
a cat sat on the mat and ate fish
a dog sat on the mat and ate meat
"""


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Vectors of a small text with n-grams."""
    root = tmp_path_factory.mktemp("words")
    (root / "text.txt").write_text(SENTENCES * 200)
    words = f"--data {root}/text.txt --out {root}/run --width 16 --ngrams 3 4 --row 64 --batch 4 --rate 0.1 --threads 1"
    assert cli.run(["train", "word2vec", *words.split(), "--epochs", "12"]) == 0
    return Run(root / "run")


def test_words_in_like_places_are_near(run: Run):
    assert near(run.folder, ["king"], 1)[0].word == "queen"
    assert near(run.folder, ["King"], 1)[0].word == "queen", "the tokenizer's way of writing is tried"
    assert {"king"}.isdisjoint(one.word for one in near(run.folder, ["king"], 50))
    encoder = run.encoder()
    assert isinstance(encoder, WordVectors)
    total = encoder.word("king") / encoder.word("king").norm() - encoder.word("cat") / encoder.word("cat").norm()
    first = near(run.folder, ["king", "-", "cat"], 1)[0]
    assert first.cosine == pytest.approx(float(F.cosine_similarity(total, encoder.word(first.word), dim=0)), abs=1e-5)


def test_a_step_is_a_hundredth_of_the_text(tmp_path: Path):
    """A short text needs no smaller --batch; resuming takes the one that was chosen."""
    (tmp_path / "text.txt").write_text(SENTENCES * 20)  # 960 words
    for row, batch in ((2, 3), (64, 1)):
        recipe = selfsup.recipe("word2vec", data=f"{tmp_path}/text.txt", row=row, steps=2)
        found = train(recipe, tmp_path / f"{row}", quiet=True)
        assert recipe.optimizer.batch is None and found.recipe.optimizer.batch == batch
        assert resume(found.folder, more=1, quiet=True).record["samples"] == 3 * batch
    recipe = selfsup.recipe("word2vec", data=f"{tmp_path}/text.txt", steps=1, row=2, batch=17)
    assert train(recipe, tmp_path / "own", quiet=True).recipe.optimizer.batch == 17


def test_texts_are_looked_at_in_pieces(run: Run):
    encoder = run.encoder()
    assert isinstance(encoder, WordVectors)
    texts = [" ".join(SENTENCES.split()[start : start + 5]) for start in range(10)] + ["", "unheard"]
    with torch.no_grad():
        at_once = encoder.vectors(texts)
    assert torch.allclose(encoder.encode(texts, batch=3), at_once, atol=1e-6)


def test_unseen_words_have_vectors_by_their_spelling(run: Run):
    assert near(run.folder, ["kingdoms"], 1)[0].word == "kingdom"


def test_the_loss_falls_and_is_watched(run: Run):
    lines = run.lines("metrics.jsonl")
    held_out = [line["mean"] for line in run.lines("evals.jsonl") if line["task"] == "pretext"]
    assert lines[-1]["epoch_loss"] < 0.9 * lines[0]["epoch_loss"] and held_out[-1] < held_out[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["king", "man"], "allowed are words with"),
        (["king", "+"], "allowed are words with"),
        ([], "allowed are words with"),
    ],
)
def test_sums_that_are_none(run: Run, words, said):
    with pytest.raises(UserError, match=said):
        near(run.folder, words)


def test_unknown_words_are_named_with_the_nearest_spelling(tmp_path: Path):
    (tmp_path / "text.txt").write_text(SENTENCES * 100)
    words = f"--data {tmp_path}/text.txt --out {tmp_path}/run --width 8 --row 64 --batch 4 --steps 2 --threads 1"
    assert cli.run(["train", "word2vec", *words.split()]) == 0
    with pytest.raises(UserError, match=r"no word 'kingdum'; spelled nearest: kingdom"):
        near(tmp_path / "run", ["kingdum"])
    with pytest.raises(UserError, match="has no word"):
        near(tmp_path / "run", ["qqqqqqq"])


def test_sentences_are_weighted_means_without_their_common_direction(run: Run):
    encoder = run.encoder()
    assert isinstance(encoder, WordVectors)
    p = encoder.counts.double() / encoder.counts.sum()
    table = encoder.table().double()
    known = sorted(encoder.ids.values())
    weighted = table * (1e-3 / (1e-3 + p))[:, None]
    covariance = sum(p[i] * torch.outer(weighted[i], weighted[i]) for i in known)
    common = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    ids = [encoder.ids[word] for word in ["a", "cat", "ate", "fish"]]
    mean = weighted[ids].mean(0)
    expected = mean - (mean @ common) * common
    found = encoder.encode(["A cat, unknownword, ate fish!", "", "qqq"])
    assert torch.allclose(found[0].double(), expected, atol=1e-5)
    assert (found[1:] == 0).all()
    assert encoder.vectors(["a cat"]).requires_grad


def test_embed_and_classify_take_it(run: Run, tmp_path: Path):
    table = tmp_path / "labelled"
    table.mkdir()
    for part in ("train", "test"):
        (table / f"{part}.csv").write_text("text,label\n" + "the king and the people,rule\na cat ate fish,eat\n" * 10)
    assert cli.run(["embed", str(run.folder), "--data", str(table), "--out", str(tmp_path / "v.npy")]) == 0
    assert np.load(tmp_path / "v.npy").shape == (40, 16)
    assert cli.run(["eval", str(run.folder), "--data", str(table), "--labels", "100%"]) == 0


def test_tests_of_words(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "pairs.tsv").write_text(
        "# some\nking\tqueen\t9\ncat\tdog\t8\nking\tmat\t1\nfish\tland\t1\nzzz\tcat\t1\n"
    )
    (tmp_path / "relations.txt").write_text(": one\nking queen cat dog\ncat dog king queen\nking queen zzz cat\n")
    assert [len(test.words) for test in open_word_tests(tmp_path)] == [5, 3]
    assert cli.run(["eval", str(run.folder), "--task", "words", "--data", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in said.splitlines()]
    scores = {(row["task"], row["representation"]): row for row in rows}
    assert scores["similarity", "run"]["mean"] > 0.5 and scores["similarity", "run"]["split"].endswith("of 5 pairs")
    assert scores["analogies", "run"]["split"] == "2 of 3 questions"
    assert {row["representation"] for row in rows} >= {"run", "untrained", "raw"}
    assert rows[-1]["task"] == "verdict"
    assert spelled_alike("cats", "cat") > spelled_alike("cats", "dog") == 0


@pytest.mark.parametrize("content", ["one two\n", "", "a b c d e\n", "a b word\nc d word\n"])
def test_files_that_are_no_tests(run: Run, tmp_path: Path, content: str):
    (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(UserError, match="allowed are lines of"):
        open_word_tests(tmp_path / "bad.txt")


def test_the_export_is_read_by_others(run: Run, tmp_path: Path):
    """By ten lines that know the formats, and by gensim and sentence-transformers where they are installed."""
    export(run.folder, tmp_path / "out")
    folder, encoder = tmp_path / "out" / "text", run.encoder()
    assert isinstance(encoder, WordVectors)
    lines = (folder / "vectors.txt").read_text().splitlines()
    assert lines[0] == f"{len(encoder.ids)} 16" and len(lines) == len(encoder.ids) + 1
    for line in lines[1:]:
        word, *numbers = line.split(" ")
        assert torch.allclose(torch.tensor([float(n) for n in numbers]), encoder.word(word), atol=1e-6)
    content = (folder / "vectors.bin").read_bytes().split(b"\n", 1)[1]
    word, rest = content.split(b" ", 1)
    first = np.frombuffer(rest[: 4 * 16], "<f4")
    assert np.allclose(first, encoder.word(word.decode()).numpy()) and rest[64:65] == b"\n"
    assert torch.allclose(load_encoder(folder).encode(["a cat"]), encoder.encode(["a cat"]))
    if find_spec("gensim"):
        from gensim.models import KeyedVectors

        for name, binary in (("vectors.txt", False), ("vectors.bin", True)):
            words = KeyedVectors.load_word2vec_format(str(folder / name), binary=binary)
            assert np.allclose(words["king"], encoder.word("king").numpy(), atol=1e-6)
    if find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(folder), device="cpu").encode(["A cat ate fish", "the king"])
        assert np.allclose(theirs, encoder.encode(["A cat ate fish", "the king"]).numpy(), atol=1e-5)
    if not (find_spec("gensim") and find_spec("sentence_transformers")):
        pytest.skip("read by ten lines; gensim or sentence-transformers is not installed")


def test_other_text_goes_on_from_the_words_of_a_run(run: Run, tmp_path: Path):
    (tmp_path / "more.txt").write_text("the king and the queen sat on the mat\n" * 100)
    recipe = selfsup.recipe(
        "word2vec", data=str(tmp_path / "more.txt"), init=str(run.folder), row=32, batch=2, steps=3, threads=1,
    )  # fmt: skip
    found = train(recipe, tmp_path / "run", quiet=True)
    before, after = run.encoder(), found.encoder()
    assert isinstance(before, WordVectors) and isinstance(after, WordVectors)
    assert after.words == before.words and not torch.equal(after.table(), before.table())
    assert torch.equal(found.untrained().encoders()["text"].module.weight, before.module.weight)
    assert resume(found.folder, more=2, quiet=True).step == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--min-count 999999", "--min-count 999999 leaves 0 of"),
        ("--threads 4096", "this machine has"),
        ("--ngrams 6 3", "the least comes first"),
        ("--precision bfloat16", "computes in float32"),
        ("--tokenizer bpe --min-count 3", "drop --min-count"),
        ("--width 8 --init x", "only one of"),
    ],
)
def test_bad_settings(flags: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.txt").write_text(SENTENCES * 20)
    words = ["train", "word2vec", "--data", f"{tmp_path}/text.txt", "--out", f"{tmp_path}/run", *flags.split()]
    with pytest.raises(UserError) as caught:
        cli.run(words)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_corpus_of_one_word_and_mixed_encodings(tmp_path: Path):
    (tmp_path / "same.txt").write_text("word " * 500)
    with pytest.raises(UserError, match="1 different words"):
        cli.run(["train", "word2vec", "--data", f"{tmp_path}/same.txt", "--out", f"{tmp_path}/run"])
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(SENTENCES * 50)
    (folder / "latin.txt").write_bytes("caf\N{LATIN SMALL LETTER E WITH ACUTE} ".encode("latin-1") * 50)
    flags = ["--width", "8", "--row", "64", "--batch", "4", "--steps", "2", "--threads", "1"]
    assert cli.run(["train", "word2vec", "--data", str(folder), "--out", f"{tmp_path}/run", *flags]) == 0
    with pytest.raises(UserError, match="--tokenizer word is for word2vec"):
        cli.run(["train", "causal_lm", "--data", str(folder), "--tokenizer", "word", "--out", f"{tmp_path}/lm"])


def test_losses_in_vector_registers_equal_torchs():
    x, scale = torch.linspace(-19, 19, 200), torch.tensor([-1.0, 0.3, 0.0, 2.0]).repeat(50)
    answers = x.clone().requires_grad_()
    sign = torch.where(scale < 0, -1.0, 1.0)
    loss = (scale.abs() * F.softplus(sign * answers)).sum()
    loss.backward()
    mine = x.numpy().copy()
    found = judge(mine, scale.numpy(), np.zeros(200, np.int32), 200)
    assert found == pytest.approx(float(loss.detach()), rel=1e-6)
    assert answers.grad is not None and np.abs(mine - answers.grad.numpy()).max() < 1e-6
    assert judge(np.array([3e6], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), 1) == math.inf

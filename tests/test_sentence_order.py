"""Sentence order against its formula; segments of real documents; foreign passages."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, ModernBertConfig

import selfsup
from selfsup.data.draw import Draw
from selfsup.data.facts import TextFacts
from selfsup.data.segments import SegmentReader, around, sentence_ends
from selfsup.data.source import open_source
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import train_tokenizer
from selfsup.data.tokens import open_tokens
from selfsup.data.words import Words
from selfsup.errors import UserError
from selfsup.nn.head import head_on
from selfsup.objectives import sentence_order
from selfsup.objectives.sentence_order import with_ranker
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape, save_network

FACTS = TextFacts(rows=1, tokens=1000, vocabulary=261, tokenizer="byte", mask=260)
TINY = {"tokenizer": "byte", "layers": 1, "heads": 2, "width": 16, "context": 64, "batch": 4, "steps": 2}


def store(texts: list[str]) -> TokenStore:
    part = open_source(texts).parts["train"]
    return open_tokens(part, part, "byte", None, Path(os.environ["SELFSUP_CACHE"]), lambda *_: None)[0]


@pytest.mark.parametrize("negatives", ["swap", "random", "both"])
def test_loss_equals_its_formula(negatives: str) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer("byte", 261, [])
    encoder = TextEncoder.create("encoder", tokenizer, 48, Shape(layers=2, heads=2, width=32))
    config = sentence_order.Config(context=48, negatives=negatives)
    objective = sentence_order.build(config, FACTS, {"text": encoder})
    with torch.no_grad():
        objective.ranker.classifier.weight.mul_(20)  # scores that differ
    generator = torch.Generator().manual_seed(1)
    batch: dict[str, torch.Tensor] = {}
    for name, length in (("first", [22, 9, 22]), ("second", [15, 22, 3]), ("foreign", [22, 22, 8])):
        batch[name] = torch.randint(0, 256, (3, 22), generator=generator)
        batch[f"{name}_length"] = torch.tensor(length)
    draw = Draw(0, 0, torch.arange(3))
    views, losses = objective.views(batch, draw), objective(batch, draw)
    total, better = 0.0, []
    for row in range(3):
        scores, nats = [], []
        for k in range(views["length"].shape[1]):
            size = int(views["length"][row, k])
            ids, types = views["input"][row, k, :size][None], views["types"][row, k, :size][None]
            scores.append(objective.ranker(input_ids=ids, token_type_ids=types).logits[0, 0].item())
            logits = objective.network(input_ids=ids, token_type_ids=types).logits[0].log_softmax(-1)
            for place in views["counted"][row, k].nonzero()[:, 0].tolist():
                nats.append(-logits[place, views["target"][row, k, place]].item())
        total += sum(nats) / len(nats) - math.log(math.exp(scores[0]) / sum(map(math.exp, scores)))
        better.append([scores[0] > other for other in scores[1:]])
    assert losses["loss"].item() == pytest.approx(total / 3, rel=1e-5)
    names = {"swap": ["order"], "random": ["next"], "both": ["order", "next"]}[negatives]
    for name, right in zip(names, zip(*better, strict=True), strict=True):
        assert losses[f"{name}_accuracy"].item() == pytest.approx(sum(right) / 3)
    first, second = (batch[name][0, : batch[f"{name}_length"][0]].tolist() for name in ("first", "second"))
    assert views["target"][0, 0, : views["length"][0, 0]].tolist() == [257, *first, 258, *second, 258]
    if negatives != "random":
        assert views["target"][0, 1, : views["length"][0, 1]].tolist() == [257, *second, 258, *first, 258]


def pairs_of(reader: SegmentReader) -> list[tuple[str, str]]:
    """The text of A and B of every row."""
    read, decode = reader.store.read, reader.store.tokenizer.decode
    places = zip(reader.start, reader.middle, reader.stop, strict=True)
    return [(decode(read(a, b).tolist()), decode(read(b, c).tolist())) for a, b, c in places]


def test_segments_end_where_sentences_end() -> None:
    text = " ".join(f'Sentence {n} costs 3.50, or so. "Is it long?" {"It is, " * (n % 5)}yes!' for n in range(60))
    pairs = pairs_of(SegmentReader(store([text, "One sentence only", text.upper()]), 120))
    assert all(one + other in text or one + other in text.upper() for one, other in pairs)
    assert {one.rstrip()[-1:] for one, _ in pairs} == {".", "!", '"'}
    assert max(max(len(one), len(other)) for one, other in pairs) <= 120
    assert not any(other.startswith("50,") for _, other in pairs)
    assert len(pairs) == 2 * (3 * 60 - 1), "one for each place between two sentences"


def test_a_sentence_too_long_for_a_segment_is_in_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    endless = "no sentence ever ends here " * 20
    reader = SegmentReader(store([endless, "One. " * 60 + endless + "end. " + "Two. " * 60, endless]), 60)
    pairs = pairs_of(reader)
    assert {piece.strip(" ") for pair in pairs for piece in "".join(pair).split(".")} == {"One", "Two", ""}
    assert len(pairs) == 2 * 59 and not any("One" in one + other and "Two" in one + other for one, other in pairs)
    assert "% of the text is in no segment: sentences of more than 60 tokens" in caplog.text
    assert "73 % of" in caplog.text, "1,625 characters of 2,225"
    caplog.clear()
    SegmentReader(store([*["a"] * 200, "One. Two. " * 20]), 60)  # every third token of it ends a document
    assert "is in no segment" not in caplog.text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(10, 60))
def test_segments_hold_all_sentences_that_fit(sizes: list[int], longest: int) -> None:
    points = np.cumsum([5, *sizes])
    found = around(points, longest)
    assert set(found.flat) <= set(points)
    for start, middle, stop in found.T:
        assert start < middle < stop and middle - start <= longest and stop - middle <= longest
        assert start == 5 or middle - points[np.searchsorted(points, start) - 1] > longest
        assert stop == points[-1] or points[np.searchsorted(points, stop) + 1] - middle > longest
    fits = [size <= longest for size in sizes]
    assert found[1].tolist() == [points[n] for n in range(1, len(sizes)) if fits[n - 1] and fits[n]]


def test_lengths_do_not_tell_which_segment_came_first() -> None:
    """Of sentences at random: segments cut one after another, each where it is fullest, give it away in 67 %."""
    points = np.cumsum(np.random.default_rng(0).geometric(1 / 15, 60_000) + 2)
    start, middle, stop = around(points, 30)

    def lengths(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Of the segment, its first sentence and its last one."""
        first, last = np.searchsorted(points, begin) + 1, np.searchsorted(points, end) - 1
        return np.stack([end - begin, points[first] - begin, end - points[last]], 1)

    one, other = lengths(start, middle), lengths(middle, stop)
    both = np.concatenate([np.concatenate([one, other], 1), np.concatenate([other, one], 1)])
    rows, learned = len(one), np.arange(2 * len(one)) % len(one) < len(one) // 2
    labels = np.arange(2 * rows) < rows
    fit = HistGradientBoostingClassifier(random_state=0).fit(both[learned], labels[learned])
    true, swapped = np.split(fit.decision_function(both[~learned]), 2)
    told = (true > swapped).mean() + (true == swapped).mean() / 2
    assert abs(told - 0.5) < 0.015, f"{told:.3f} of {len(true)} orders were told"


def test_foreign_passages_are_foreign_and_drawn_anew() -> None:
    texts = [" ".join(f"This is sentence {n} of document {d}." for n in range(40)) for d in range(3)]
    reader = SegmentReader(store(texts), 60)
    rows, document, start, stop = torch.arange(len(reader)), reader.document, reader.start, reader.stop
    seen = []
    for epoch in range(30):
        found = reader.foreign(Draw(0, epoch, rows), 0.5)
        same = document[found] == document
        assert not ((stop[found] >= start) & (reader.middle[found] <= stop)).any()
        assert 0.45 < same.mean() < 0.85
        anywhere = reader.foreign(Draw(0, epoch, rows), 0.0)
        assert 0.1 < (document[anywhere] == document).mean() < 0.45  # of three documents
        seen.append(found)
    assert len(np.unique(np.stack(seen)[:, 5])) > 15


def test_the_head_sits_on_the_same_body(tmp_path: Path) -> None:
    """Shared and narrow as it is; what is saved of it scores alike without selfsup."""
    torch.manual_seed(0)
    shape = Shape(layers=3, heads=2, width=32, share=True, embedding=8)
    network = TextEncoder.create("encoder", train_tokenizer("byte", 261, []), 16, shape).model
    ranker = with_ranker(network).eval()
    assert ranker.base_model is network.base_model
    save_network(ranker, AutoModelForSequenceClassification, tmp_path)
    ids = torch.arange(16)[None] + 60
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.allclose(ranker(ids).logits, plain(ids).logits, atol=1e-6)


def test_a_body_without_a_pooler_gets_one() -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    network = BertForMaskedLM(config)
    ranker = with_ranker(network)
    assert network.base_model.pooler is not None and ranker(torch.tensor([[1, 2]])).logits.shape == (1, 1)


def test_a_head_that_averages_leaves_padding_out() -> None:
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_labels=1,
                              intermediate_size=32, classifier_pooling="mean", pad_token_id=0)  # fmt: skip
    network = AutoModelForSequenceClassification.from_config(config).eval()
    ids, inside = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    states = network.base_model(input_ids=ids, attention_mask=inside.long()).last_hidden_state
    wanted = network(input_ids=ids[:, :3]).logits
    assert torch.allclose(head_on(network, states, inside=inside), wanted, atol=1e-5)
    assert not torch.allclose(head_on(network, states), wanted, atol=1e-5)


def test_too_little_text() -> None:
    with pytest.raises(UserError, match="no document has two sentences"):
        SegmentReader(store([f"a sentence {n}" for n in range(20)]), 60)
    with pytest.raises(UserError, match="too few"):
        SegmentReader(store(["One. Two."]), 60)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
@pytest.mark.parametrize(
    "sentences",
    [
        ["One here.", " Two! ", "\nThree?"],
        ["“Quite so.”", " He left.", " Then"],
        ["A HEADING", "\n\nA line of verse", "\n \nand another,\nthat goes on"],
        ["Ended.", "\r\n\r\nA paragraph."],
    ],
)
def test_sentences_and_paragraphs_end(kind: str, sentences: list[str]) -> None:
    text = "".join(sentences)
    tokenizer = train_tokenizer(kind, 262, [text])
    words = Words.of(tokenizer)
    tables = np.stack([words.ends, words.closes, words.opens, words.wide, words.blank, words.line])
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    places = [0, *sentence_ends(ids, tables), len(ids)]
    found = [tokenizer.decode(ids[start:stop]) for start, stop in pairwise(places)]
    assert [part.strip() for part in found] == [part.strip() for part in sentences]


def test_a_held_out_part_without_pairs_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "valid").mkdir()
    (tmp_path / "train" / "a.txt").write_text("A first sentence. And a second one. " * 40)
    (tmp_path / "valid" / "b.txt").write_text("A single one")
    recipe = selfsup.recipe("sentence_order", data=str(tmp_path), **TINY)
    run = selfsup.train(recipe, tmp_path / "run", quiet=True)
    assert run.step == 2 and "too small to be watched" in caplog.text


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Sí. ¿No? ¡Ya!", ".?!"),
        ("「好。」他说。完。", "。。。"),
        ("राम आया। वह गया।", "।।"),
    ],
)
def test_ends_in_other_languages(text: str, ends: str) -> None:
    tokenizer = train_tokenizer("char", 0, [text])
    words = Words.of(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(mark for mark, number in zip(text, ids, strict=True) if words.ends[number]) == ends

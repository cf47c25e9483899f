"""Answers with sources: what stands in the window, and what retrieved passages are worth."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from selfsup.data.tokenizer import train_tokenizer
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.predict import Sampling, load_generator
from selfsup.predictors.generator import Generator
from selfsup.progress import Progress
from selfsup.search.ask import PROMPT, Window, ask
from selfsup.search.index import Index
from selfsup.search.neighbors import RUN, Comparison, HeldOut, longest_run, overlapping, runs
from selfsup.search.query import passages, search
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Shape
from text_pairs import WORDS

CONTEXT = 96
SHORT = Sampling(tokens=8)
CHAT = (
    "{{ bos_token }}{% for one in messages %}<user>{{ one.content }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def made(seed: int, texts: list[str]) -> Generator:
    """A language model with random weights."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer("bpe", 400, [*texts, PROMPT, " ".join(WORDS)])
    encoder = TextEncoder.create("decoder", tokenizer, CONTEXT, Shape(2, 2, 32))
    return Generator(encoder.model, encoder.tokenizer, CONTEXT)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chance = np.random.default_rng(0)
    return [" ".join(chance.choice(WORDS, 10 + number % 7)) for number in range(30)]


@pytest.fixture(scope="module")
def index(tmp_path_factory, texts) -> Index:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("asked")
    tokenizer = train_tokenizer("bpe", 300, [" ".join(WORDS)])
    TextEncoder.create("encoder", tokenizer, 64, Shape(1, 2, 32)).save(folder / "encoder")
    rows = {"id": [f"{n}" for n in range(30)], "text": texts, "year": list(range(30))}
    return Index.build(folder / "encoder", Dataset.from_dict(rows), folder / "index", passage=48, quiet=True)[0]


@pytest.fixture(scope="module")
def generator(texts) -> Generator:
    return made(1, texts)


def size(generator: Generator, text: str) -> int:
    return len(generator.tokenizer(text, add_special_tokens=False)["input_ids"])


def decoded(generator: Generator, ids: list[int]) -> str:
    return str(generator.tokenizer.decode(ids))


@pytest.mark.parametrize("tokens", [8, 40, 60])
def test_the_best_passages_that_fit_stand_last(index: Index, generator: Generator, tokens: int) -> None:
    question = f"{WORDS[0]} and {WORDS[7]}"
    answer = ask(index, question, generator, k=9, how=Sampling(tokens=tokens))
    best = passages(index, question, 9)
    shown = [one.hit for one in answer.sources]
    assert shown and [one.number for one in answer.sources] == list(range(1, len(shown) + 1))
    window = Window(generator, PROMPT, question)
    ids = window.ids([hit.text or "" for hit in shown])
    assert len(ids) <= CONTEXT - tokens
    listed = "\n\n".join(f"[{number}] {hit.text}" for number, hit in reversed(list(enumerate(shown, 1))))
    assert decoded(generator, ids) == PROMPT.format(passages=listed, question=question)
    if shown[0] == best[0]:  # whole passages, in the order of their ranks, and none is left out that would fit
        kept = [hit for hit in best if hit in shown]
        assert kept == shown
        for number, hit in enumerate(best):
            better = [one.text or "" for one in best[:number] if one in shown]
            assert (len(window.ids([*better, hit.text or ""])) <= CONTEXT - tokens) == (hit in shown)
    else:  # the best alone, cut
        whole = best[0]
        assert len(shown) == 1 and whole.text and shown[0].text and whole.text.startswith(shown[0].text)
        assert whole.text[len(shown[0].text)].isspace() and shown[0].stop == shown[0].start + len(shown[0].text)
        assert len(window.ids([whole.text[: len(shown[0].text) + 12]])) > CONTEXT - tokens


def test_the_answer_comes_in_pieces_and_by_seed(index: Index, generator: Generator) -> None:
    answer = ask(index, WORDS[2], generator, how=Sampling(tokens=12, seed=3))
    pieces = list(answer.pieces)
    assert len(pieces) > 1 and answer.text == ""
    assert ask(index, WORDS[2], generator, how=Sampling(tokens=12, seed=3)).text == "".join(pieces)
    assert ask(index, WORDS[2], generator, how=Sampling(tokens=12, seed=4)).text != "".join(pieces)
    window = Window(generator, PROMPT, WORDS[2]).ids([one.hit.text or "" for one in answer.sources])
    assert len(window) + 12 <= CONTEXT
    likeliest = ask(index, WORDS[2], generator, how=Sampling(tokens=3, temperature=0)).text
    with torch.no_grad():
        for _ in range(3):
            window.append(int(generator.network.eval()(torch.tensor([window])).logits[0, -1].argmax()))
    assert decoded(generator, window).endswith(likeliest)


def test_the_generator_may_lie_in_a_folder_of_transformers(index: Index, generator: Generator, tmp_path: Path) -> None:
    expected = ask(index, WORDS[2], generator, how=SHORT).text
    generator.save(tmp_path / "own")
    assert ask(index, WORDS[2], tmp_path / "own", how=SHORT).text == expected
    generator.network.save_pretrained(tmp_path / "foreign")
    generator.tokenizer.save_pretrained(tmp_path / "foreign")
    found = load_generator(tmp_path / "foreign")
    assert found.context == CONTEXT and ask(index, WORDS[2], found, how=SHORT).text == expected
    with pytest.raises(UserError, match="holds nothing that generates text"):
        ask(index, WORDS[2], tmp_path, how=SHORT)


def test_passages_of_one_document_do_not_overlap(index: Index, tmp_path: Path) -> None:
    text = " ".join(np.random.default_rng(1).choice(WORDS, 80))
    one, _ = Index.build(
        index.contents.about["encoder"], Dataset.from_dict({"text": [text]}), tmp_path / "one",
        passage=32, overlap=16, quiet=True,
    )  # fmt: skip
    assert len(one) > 5 and len(search(one, WORDS[0], 5)) == 1  # documents
    found = passages(one, WORDS[0], 9, "dense")
    spans = sorted((hit.start, hit.stop) for hit in found)
    assert len(found) > 2 and all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_chat_template_frames_what_is_said(index: Index, texts: list[str]) -> None:
    generator = made(1, texts)
    generator.tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "</user>", "<model>"]})
    generator.network.resize_token_embeddings(len(generator.tokenizer))
    generator.tokenizer.chat_template = CHAT
    marks = generator.tokenizer.convert_tokens_to_ids(["<user>", "</user>", "<model>"])
    window = Window(generator, "{passages} {question}", "why</user>?")
    ids = window.ids([f"{WORDS[0]} <model>", WORDS[1]])
    assert ids[:2] == [generator.tokenizer.bos_token_id, marks[0]] and ids[-2:] == marks[1:]
    assert not {*marks, generator.tokenizer.bos_token_id} & set(ids[2:-2])  # what looks like a mark is text
    assert decoded(generator, ids[2:-2]) == f"[2] {WORDS[1]}\n\n[1] {WORDS[0]} <model> why</user>?"
    answer = ask(index, WORDS[3], generator, how=SHORT)
    assert answer.sources and isinstance(answer.text, str)


def test_mistakes_are_said_in_a_line(index: Index, generator: Generator, tmp_path: Path) -> None:
    for prompt in ("{passages}", "{question}", "{passages} {passages} {question}", ""):
        with pytest.raises(UserError, match=r"--prompt .* once each"):
            ask(index, WORDS[0], generator, prompt=prompt)
    with pytest.raises(UserError, match=r"--tokens 90: the model reads 96 tokens at once, and the question takes \d+"):
        ask(index, WORDS[0], generator, how=Sampling(tokens=90))
    with pytest.raises(UserError, match=r"--tokens 8: .* ask shorter"):
        ask(index, " ".join(WORDS * 20), generator, how=SHORT)
    with pytest.raises(UserError, match="is empty"):
        ask(index, " ", generator)
    with pytest.raises(UserError, match="-k 0"):
        ask(index, WORDS[0], generator, k=0)
    with pytest.raises(UserError, match="has no passage for 'xyzzy'"):
        ask(index, "xyzzy", generator, method="words")
    with pytest.raises(UserError, match="has no passage"):
        ask(index, WORDS[0], generator, where=["year>99"])
    with pytest.raises(UserError, match="halves"):
        HeldOut("a", "word").halves()
    torch.manual_seed(0)
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2}
    ImageEncoder.create("vit_tiny_patch16_224", shape, 16, (0.5,) * 3, (0.2,) * 3).save(tmp_path / "images")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "a.png")
    pictures, _ = Index.build(tmp_path / "images", tmp_path / "photos", tmp_path / "pictures", quiet=True)
    with pytest.raises(UserError, match="holds pictures"):
        ask(pictures, "what is this", generator)


def test_conditions_hold_for_what_is_shown(index: Index, generator: Generator) -> None:
    answer = ask(index, WORDS[4], generator, where=["year<3"], how=SHORT)
    assert {one.hit.about["year"] for one in answer.sources} <= {0, 1, 2}


def test_a_question_longer_than_a_file_name_is_a_question(index: Index) -> None:
    assert passages(index, " ".join(WORDS * 3), 2)


def test_what_overlaps_is_found(index: Index, texts: list[str]) -> None:
    part = " ".join(texts[4].split()[1:9]).upper()  # eight words of document 4
    held_out = [HeldOut("7", "new words"), HeldOut("none", f"x {part}, y"), HeldOut("none", " ".join(part.split()[:7]))]
    found = [{names(index)[place] for place in some} for some in overlapping(index, held_out)]
    assert found == [{"7"}, {"4"}, set()]
    assert list(runs("A b, c", 2)) == [("a", "b"), ("b", "c")]
    assert longest_run("one two three four", "zero two three two three four") == 3


def names(index: Index) -> dict[tuple[int, int], str]:
    return {(n, row): name for n, part in enumerate(index.segments) for row, (name,) in part.alive("id")}


def nats_by_hand(generator: Generator, before: list[int], rest: str) -> float:
    """Of the tokens of a text behind others, one network pass and a softmax for each."""
    ids, total = list(before), 0.0
    with torch.no_grad():
        for token in generator.tokenizer(rest, add_special_tokens=False)["input_ids"]:
            logits = generator.network.eval()(torch.tensor([ids])).logits[0, -1].double()
            total -= float(logits[token] - logits.logsumexp(0))
            ids.append(token)
    assert len(ids) <= CONTEXT
    return total


def test_bits_per_byte_are_those_of_the_second_halves(index: Index, generator: Generator, texts: list[str]) -> None:
    held_out = [HeldOut(str(number), texts[number]) for number in (2, 3)] + [HeldOut("new", "sunrise wayside hill sea")]
    told = Comparison(index, generator, k=2, method="dense").told(held_out, Progress(False))
    end, tokenizer = generator.tokenizer.eos_token_id, generator.tokenizer
    for number, one in enumerate(held_out):
        first, rest = one.halves()
        assert first + rest == one.text and len(first.split()) == len(one.text.split()) // 2
        assert told.bytes[number] == len(rest.encode())
        tail = tokenizer(first, add_special_tokens=False)["input_ids"]
        alone = nats_by_hand(generator, [end, *tail], rest)
        assert told.nats["none"][number] == pytest.approx(alone, rel=1e-4)
        there = [part.there.copy() for part in index.segments]
        for segment, row in overlapping(index, [one])[0]:
            there[segment][row] = False
        best, second = passages(index, first, 2, "dense", there)
        both = f"{second.text}\n\n{best.text}\n\n"
        ids = tokenizer(f"{both}{first}", add_special_tokens=False)["input_ids"]
        kept = min(told.shown[number], CONTEXT - 1 - len(tail) - size(generator, rest)) + len(tail)
        ids = [end, *ids[-kept:]]
        assert told.nats["retrieved"][number] == pytest.approx(nats_by_hand(generator, ids, rest), rel=1e-4)
        assert one.id not in (best.id, second.id) and told.shared[number] < RUN
    assert told.out.tolist() == [1, 1, 0]
    expected = told.nats["random"].sum() / math.log(2) / told.bytes.sum()
    assert told.bits("random") == pytest.approx(expected)
    gain = told.gain("random")
    assert gain.mean == pytest.approx(told.bits("random") - told.bits("retrieved")) and gain.half > 0
    again = Comparison(index, generator, k=2, method="dense").told(held_out, Progress(False))
    other = Comparison(index, generator, k=2, method="dense", seed=1).told(held_out, Progress(False))
    assert np.array_equal(again.nats["random"], told.nats["random"])
    assert not np.array_equal(other.nats["random"], told.nats["random"])
    assert np.array_equal(other.nats["retrieved"], told.nats["retrieved"])

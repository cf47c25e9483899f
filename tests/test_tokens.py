"""Prepared text: ids equal to the tokenizer's, nothing held out in what is trained on, memory that stays bounded."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, GPT2TokenizerFast, PreTrainedTokenizerFast

from selfsup.data import documents as documents_module
from selfsup.data import tokens as tokens_module
from selfsup.data.documents import documents, is_held_out
from selfsup.data.draw import Draw
from selfsup.data.source import Data, open_source
from selfsup.data.text import WindowReader
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import END, Encoding, end_id, load_tokenizer, open_tokenizer, train_tokenizer
from selfsup.data.tokens import default_vocabulary, open_tokens
from selfsup.errors import UserError

LANGUAGES = {
    "Spanish": "¿Dónde está el pingüino? ¡Mañana será otro día!\n",
    "French": "L\u2019été, où naît l\u2019œuvre : «ça va» — très bien…\n",
    "Hindi": "हिन्दी में नमस्ते; क्षत्रिय, ज़्यादा।\n",
    "Chinese": "机器学习很有趣,对吗?“是的”。\n",
    "emoji": "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200d end\n",
    "spaces": "  two  \t tabs\t\n\n\n nbsp\u00a0 end .  , !\n",
}
ALL = "".join(LANGUAGES.values())


def opened(data: Data, tokenizer: str = "byte", vocabulary: int | None = None) -> tuple[TokenStore, TokenStore]:
    parts = open_source(data).parts
    root = Path(os.environ["SELFSUP_CACHE"])
    own = parts.get("valid", parts.get("test"))
    return open_tokens(parts["train"], own, tokenizer, vocabulary, root, lambda *_: None)


def write(folder: Path, contents: Iterable[str | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"{number:04}.txt").write_bytes(raw)
    return folder


def test_the_char_tokenizer_sorts_and_ends():
    tokenizer = train_tokenizer("char", 0, ["ba\n", "c"])
    assert tokenizer.get_vocab() == {
        END: 0,
        "[CLS]": 1,
        "[SEP]": 2,
        "[PAD]": 3,
        "[MASK]": 4,
        "\n": 5,
        "a": 6,
        "b": 7,
        "c": 8,
    }
    assert end_id(tokenizer) == 0
    assert len(train_tokenizer("byte", 0, [])) == 261
    assert len(train_tokenizer("bpe", 300, [ALL] * 20)) == 300


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_a_written_mask_stands_for_a_token_as_it_is_hidden(kind: str, tmp_path: Path):
    """Where a word has its space in front, a mask in its place takes the space along."""
    train_tokenizer(kind, 400, ["the cat sat on the mat " * 20]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    if kind == "bpe":
        ids[1] = tokenizer.mask_token_id
        assert len(ids) == 3
    else:
        ids[4:7] = [tokenizer.mask_token_id]
    assert tokenizer("the [MASK] sat", add_special_tokens=False)["input_ids"] == ids


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_ids_are_the_tokenizers_and_decode_to_the_text(kind: str, language: str, tmp_path: Path):
    train_tokenizer(kind, 400, [ALL] * 3).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))  # as it comes back from a run
    text = LANGUAGES[language]
    ids = next(iter(Encoding(tokenizer, kind)([text])))
    assert ids.dtype == np.uint16
    assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.max() < len(tokenizer)
    assert tokenizer.decode(ids.tolist()) == text
    if kind == "byte":
        assert ids.tolist() == list(text.encode())
    if kind == "char":
        assert len(ids) == len(text)


WRAPPED = "A line that was\nbroken thrice, \nnot more\r\noften.\n\nNext.\n \t\nLast.\r\n\r\nEnd.\n  an indented line\n"
JOINED = "A line that was broken thrice, not more often.\n\nNext.\n \t\nLast.\r\n\r\nEnd.\n  an indented line\n"


def test_a_tokenizer_that_two_have_open_is_one(tmp_path: Path):
    train_tokenizer("char", 0, ["abc"]).save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    train_tokenizer("char", 0, ["abcd"]).save_pretrained(tmp_path / "c")
    first = open_tokenizer(tmp_path / "a")
    assert open_tokenizer(tmp_path / "b") is first and len(open_tokenizer(tmp_path / "c")) == len(first) + 1


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_lines_of_a_paragraph_are_joined(kind: str, tmp_path: Path):
    train_tokenizer(kind, 400, [WRAPPED] * 3, "join").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), "join")  # which already does it
    kept = train_tokenizer(kind, 400, [WRAPPED] * 3)
    ids = next(iter(Encoding(tokenizer, kind)([WRAPPED]))).tolist()
    assert ids == tokenizer(WRAPPED, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == JOINED
    assert kept.decode(kept(WRAPPED, add_special_tokens=False)["input_ids"]) == WRAPPED
    if kind == "bpe":
        assert " broken" in {tokenizer.decode([number]) for number in range(len(tokenizer))}  # as pairs saw it
        assert " broken" not in {kept.decode([number]) for number in range(len(kept))}


def test_a_ready_tokenizer_joins_lines_where_it_did_not(tmp_path: Path):
    pieces = {piece: number for number, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    BertTokenizerFast(vocab=pieces).save_pretrained(tmp_path / "bert")
    train_tokenizer("bpe", 300, [WRAPPED]).save_pretrained(tmp_path / "plain")
    settings = json.loads((tmp_path / "plain" / "tokenizer.json").read_text())
    GPT2TokenizerFast(vocab=settings["model"]["vocab"], merges=[]).save_pretrained(tmp_path / "gpt2")
    assert type(load_tokenizer(str(tmp_path / "bert"), "join")) is type(load_tokenizer(str(tmp_path / "bert")))
    for name in ("plain", "gpt2"):
        load_tokenizer(str(tmp_path / name), "join").save_pretrained(tmp_path / f"{name} joined")
        for place, shown in ((name, WRAPPED), (f"{name} joined", JOINED)):
            tokenizer = load_tokenizer(str(tmp_path / place))
            assert tokenizer.decode(tokenizer(WRAPPED, add_special_tokens=False)["input_ids"]) == shown


def test_a_tokenizer_that_was_saved_cutting_and_padding_does_neither_here(tmp_path: Path):
    tokenizer = train_tokenizer("bpe", 300, [ALL])
    whole = tokenizer(ALL, add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokenizer.save_pretrained(tmp_path / "cuts")
    short, long = Encoding(load_tokenizer(str(tmp_path / "cuts")), "cuts")(["a b", ALL])
    assert len(short) == 3 and long.tolist() == whole


def test_a_character_that_the_vocabulary_lacks_is_the_end_token():
    tokenizer = train_tokenizer("char", 0, ["abc"])
    ids = next(iter(Encoding(tokenizer, "char")(["a😀ßb"])))
    assert ids.tolist() == tokenizer("a😀ßb", add_special_tokens=False)["input_ids"] == [5, 0, 0, 6]


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_the_end_of_a_lone_file_is_held_out(tmp_path: Path, tokenizer: str):
    text = "".join(f"line {number} {LANGUAGES['French']}" for number in range(200))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    train, held_out = opened(tmp_path / "a.txt", tokenizer)
    assert train.text() + held_out.text() == text
    assert len(held_out.text()) / len(text) == pytest.approx(0.1, abs=0.01)
    assert held_out.text().startswith("line ")
    assert [part.offsets.tolist() for part in (train, held_out)] == [[0, len(train)], [0, len(held_out)]]
    assert all(held_out.text_end(size) == text.encode()[-size:] for size in range(1, 30))
    assert train.text_end(10**9) == train.text().encode()


def test_a_tokenizer_learns_nothing_from_what_is_held_out(tmp_path: Path):
    (tmp_path / "a.txt").write_text("abcd efgh\n" * 900 + "XYXYXYXY\n" * 112)
    train, held_out = opened(tmp_path / "a.txt", "bpe", 300)
    assert "XY" in held_out.text() and "XY" not in train.text()
    assert not any("XY" in token for token in train.tokenizer.get_vocab())
    words = [f"word{number} " * 20 for number in range(400)]
    train, held_out = opened(write(tmp_path / "many", words), "bpe", 30_000)
    whole = {word.split()[0] for word in words if is_held_out(word.encode())}
    assert whole and not whole & {token.strip("Ġ") for token in train.tokenizer.get_vocab()}


def test_many_documents_are_held_out_by_content(tmp_path: Path):
    contents = [f"document {number} " * 3 for number in range(600)]
    contents += contents[:200]
    train, held_out = opened(write(tmp_path / "many", contents))
    sides = [part.tokenizer.decode(part.read(0, len(part)).tolist()).split(END)[:-1] for part in (train, held_out)]
    assert sorted(sides[0] + sides[1]) == sorted(contents)
    assert not set(sides[0]) & set(sides[1])
    assert len(sides[1]) / 800 == pytest.approx(0.05, abs=0.03)
    for part, documents_of_part in zip((train, held_out), sides, strict=True):
        assert part.tokenizer.convert_ids_to_tokens(256) == END
        assert np.flatnonzero(part.read(0, len(part)) == 256).tolist() == (part.offsets[1:] - 1).tolist()
        assert len(part.offsets) - 1 == len(documents_of_part)
    again, _ = opened([content for content in contents])  # the same texts in memory
    assert np.array_equal(again.read(0, len(again)), train.read(0, len(train)))


def test_characters_of_the_users_own_part_are_listed_too(tmp_path: Path):
    for name, content in (("train", "eins zwei drei " * 30), ("valid", "vier f\u00fcnf")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    _, held_out = opened(tmp_path, "char")
    assert held_out.text() == "vier f\u00fcnf"


def test_the_users_own_part_is_used(tmp_path: Path):
    for name, content in (("train", "eins zwei drei " * 30), ("valid", "vier fünf"), ("test", "sechs")):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
    train, held_out = opened(tmp_path, "bpe")
    assert train.text() == "eins zwei drei " * 30 and held_out.text() == "vier fünf"
    assert train.tokenizer.get_vocab() == held_out.tokenizer.get_vocab()


@pytest.mark.parametrize("documents_given", [["one " * 9] * 2, ["alone " * 30] * 50, ["a b", "c d", "e f"]])
def test_both_sides_get_text_however_few_documents(documents_given: list[str]):
    for texts in (documents_given, [f"{text}!" for text in documents_given], [f"{text}??" for text in documents_given]):
        train, held_out = opened(texts)
        assert len(train) > 1 and len(held_out) >= 1
        assert len(train) + len(held_out) == sum(len(text) + 1 for text in texts)


def test_bad_files_among_many_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    contents: list[str | bytes] = [f"good {number} " for number in range(40)]
    contents[3], contents[7] = "caf\u00e9 ".encode("latin-1"), b""
    folder = write(tmp_path / "many", contents)
    (folder / "link.txt").symlink_to("nowhere.txt")
    with caplog.at_level(logging.WARNING, "selfsup"):
        train, held_out = opened(folder)
    assert f"2 of 41 documents cannot be read to their end, such as {folder / '0003.txt'} (not UTF-8" in caplog.text
    assert "at byte 3" in caplog.text
    sides = [part.tokenizer.decode(part.read(0, len(part)).tolist()) for part in (train, held_out)]
    found = "".join(sides).split(END)[:-1]
    assert train.text() + held_out.text() == "".join(sides).replace(END, "")
    assert sorted(found) == sorted(f"good {number} " for number in range(40) if number not in (3, 7))
    assert "" not in found  # an empty document leaves no end behind


def test_a_document_that_breaks_late_still_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents_module, "BLOCK", 1000)
    long = b"word " * 700
    folder = write(tmp_path / "many", [long + b"\xff" + long, "next " * 10, *(f"{i}" for i in range(9))])
    bad: list[tuple[int, str, str]] = []
    blocks = list(documents(open_source(folder).parts["train"].table, bad))
    assert [block.row for block in blocks if block.last] == list(range(11))
    assert bad == [(0, str(folder / "0000.txt"), "not UTF-8: invalid start byte at byte 3500")]
    begun = "".join(block.text for block in blocks if block.row == 0)
    assert begun and long.decode().startswith(begun)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 tokens to train on; nothing can be learned"),
        (b"x", "0 tokens to train on"),
        (b"xy", "1 tokens to train on"),
        (b"fine\xff", r"a\.txt: not UTF-8: invalid start byte at byte 4; text must be UTF-8"),
        (b"\xef\xbb\xbffine\xff", "at byte 7"),
        ("in UTF-16".encode("utf-16"), "not UTF-8: invalid start byte at byte 0"),
        ("cut off é".encode()[:-1], "unexpected end of data at byte 8"),
    ],
)
@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_a_lone_file_that_cannot_be_used_is_a_mistake(tmp_path: Path, tokenizer: str, content: bytes, message: str):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        opened(tmp_path / "a.txt", tokenizer)
    assert "\n" not in str(caught.value)


def test_line_ends_and_byte_order_marks(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\rthree\n\r\n".encode() * 1 + b"end" * 10)
    train, held_out = opened(tmp_path / "a.txt")
    assert train.text() + held_out.text() == "one\ntwo\rthree\n\n" + "end" * 10


@pytest.mark.parametrize(
    "text", ["word " * 3000, "x" * 9999, "é" * 5001, "line\r\n" * 1999 + "\r", "\r\n" * 3001, "ab\n" * 3333]
)
def test_blocks_join_to_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setattr(documents_module, "BLOCK", 1000)
    (tmp_path / "a.txt").write_bytes(text.encode())
    for source in (tmp_path / "a.txt", [text]):
        blocks = list(documents(open_source(source).parts["train"].table, []))
        assert "".join(block.text for block in blocks) == text.replace("\r\n", "\n")
        assert max(len(block.text) for block in blocks) <= 2000 and len(blocks) >= 4
        assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]
        assert len({block.held_out for block in blocks}) == 1
        torn = [a for a, b in pairwise(blocks) if a.text[-1:].isalpha() and b.text[:1].isalpha()]
        assert not torn or not {" ", "\n"} & set(text)


def test_blocks_do_not_change_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("The quick brown fox, isn't it?\n  jumps over 12 dogs\n" * 400)
    whole, _ = opened(tmp_path / "a.txt", "bpe", 400)
    tokenizer = whole.tokenizer
    monkeypatch.setattr(documents_module, "BLOCK", 1000)
    text = (tmp_path / "a.txt").read_text()
    blocks = [block.text for block in documents(open_source(tmp_path / "a.txt").parts["train"].table, [])]
    cut = np.concatenate(list(Encoding(tokenizer, "bpe")(blocks)))
    assert len(blocks) > 10 and cut.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_second_opening_reads_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "many", [f"text {number} " for number in range(30)])
    first, _ = opened(folder, "bpe")
    with monkeypatch.context() as patch:
        patch.setattr(tokens_module, "_encode", lambda *_: pytest.fail("encoded again"))
        patch.setattr(tokens_module, "train_tokenizer", lambda *_: pytest.fail("learned again"))
        again, _ = opened(folder, "bpe")
    assert np.array_equal(first.read(0, len(first)), again.read(0, len(again)))
    (folder / "0000.txt").write_text("changed and longer")
    assert "changed" in "".join(part.text() for part in opened(folder, "bpe"))


def test_a_ready_tokenizer_is_known_by_its_files(tmp_path: Path):
    (tmp_path / "a.txt").write_text("abc abd " * 50)
    place, lengths = tmp_path / "tokenizer", []
    for vocabulary in (262, 263):
        train_tokenizer("bpe", vocabulary, ["abc abd " * 50]).save_pretrained(place)
        os.utime(place / "tokenizer.json", ns=(vocabulary, vocabulary))
        lengths.append(len(opened(tmp_path / "a.txt", str(place))[0].tokenizer))
    assert lengths == [262, 263]


def test_mistakes_about_tokenizers(tmp_path: Path):
    with pytest.raises(UserError, match=r"--vocabulary 200 is too small.*261"):
        opened(["some text"], "bpe", 200)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no tokenizer there.*allowed: byte, char, bpe, a folder"):
        opened(["some text"], str(tmp_path / "empty"))
    train_tokenizer("bpe", 300, ["a"])._tokenizer.save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="no token that could end a document"):
        end_id(PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "t.json")))


def test_the_vocabulary_follows_the_text():
    sizes = [default_vocabulary(size) for size in (0, 1_000, 1_000_000, 100_000_000, 10**12)]
    assert sizes == sorted(sizes) and sizes[0] == 512 and sizes[-1] == 32768
    assert all(size & (size - 1) == 0 for size in sizes)


def windows(store: TokenStore, context: int, epoch: int) -> list[list[int]]:
    reader = WindowReader(store, context)
    batch = reader.gather(Draw(5, epoch, torch.arange(len(reader))))
    assert batch["tokens"].shape == (len(reader), context + 1) and batch["tokens"].dtype == torch.int64
    for tokens, length in zip(batch["tokens"], batch["tokens_length"], strict=True):
        assert not tokens[length:].any() and length >= 2
    return [row[:length].tolist() for row, length in zip(batch["tokens"], batch["tokens_length"], strict=True)]


@pytest.mark.parametrize("context", [1, 2, 7, 90, 91, 1000])
@pytest.mark.parametrize("size", [100, 101])
def test_windows_tile_the_text_in_validation(context: int, size: int):
    whole, _ = opened(["".join(chr(32 + number) for number in range(size))], "char")
    store = whole.cut(0, len(whole))
    ids = store.read(0, len(store)).tolist()
    found = windows(store, context, epoch=-1)
    assert [token for window in found for token in window[1:]] == ids[1:]  # every token but the first, once
    assert all(a[-1] == b[0] for a, b in pairwise(found))


def test_windows_start_at_another_phase_in_every_epoch():
    store, _ = opened(["".join(chr(32 + number) for number in range(90))], "char")
    ids, firsts = store.read(0, len(store)).tolist(), set()
    for epoch in range(30):
        found = windows(store, 10, epoch)
        assert found == windows(store, 10, epoch)
        targets = [token for window in found for token in window[1:]]
        assert targets == ids[1 : len(targets) + 1] and len(ids) - len(targets) <= 10
        firsts.add(len(found[0]))
    assert len(firsts) > 5 and firsts <= set(range(2, 12))
    with pytest.raises(UserError, match="1 tokens are too few"):
        WindowReader(store.cut(0, 1), 10)


def test_a_pickled_reader_holds_no_ids(tmp_path: Path):
    (tmp_path / "a.txt").write_text("some text\n" * 50_000)
    store, _ = opened(tmp_path / "a.txt")
    reader = WindowReader(store, 64)
    draw = Draw(0, 0, torch.tensor([7, 0]))
    before = reader.gather(draw)
    packed = pickle.dumps(reader)
    assert len(packed) < 100_000
    after = pickle.loads(packed).gather(draw)
    assert all(torch.equal(before[name], after[name]) for name in before)


def own_memory() -> int:
    """Bytes that belong to this process alone; mapped files do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_a_large_file_streams(tmp_path: Path, tokenizer: str):
    line = "".join(LANGUAGES.values()).encode()
    with open(tmp_path / "a.txt", "wb") as file:
        for _ in range(50_000_000 // (1000 * len(line))):
            file.write(line * 1000)
    part, memory = open_source(tmp_path / "a.txt").parts["train"], [own_memory()]
    root = Path(os.environ["SELFSUP_CACHE"])
    train, held_out = open_tokens(part, None, tokenizer, None, root, lambda *_: memory.append(own_memory()))
    WindowReader(train, 256).gather(Draw(0, 0, torch.arange(64)))
    memory.append(own_memory())
    assert len(train) + len(held_out) > 20_000_000 and len(memory) > 20
    assert max(memory) - memory[0] < 60e6  # a few blocks of a megabyte, not the file

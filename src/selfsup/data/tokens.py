"""Text prepared once: tokenizer, ids and counts, in the cache."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer

from selfsup.data.documents import Block, how_to_split, split_documents
from selfsup.data.part import Part
from selfsup.data.store import Mapped, stored
from selfsup.data.token_store import TokenStore
from selfsup.data.tokenizer import (
    LEARNED,
    OWN,
    PAIRS,
    SPECIAL,
    Encoding,
    Lines,
    id_type,
    identity,
    load_tokenizer,
    open_tokenizer,
    train_tokenizer,
)
from selfsup.data.word_tokenizer import (
    WordEncoding,
    WordRules,
    count_words,
    frequent_words,
    reads_words,
    word_tokenizer,
)
from selfsup.errors import UserError

log = logging.getLogger("selfsup")
NAMES = ("train", "held_out")
COUNTS = "counts.npy"  # beside the tokenizer: how often each id occurs in the training text
BATCH = 1 << 20  # characters that are encoded at once, their blocks side by side
Progress = Callable[[str, int, int], None]
Bad = list[tuple[int, str, str]]  # row, name, reason


def text_size(table: Dataset) -> int:
    """Bytes of all documents; for texts in memory, about."""
    size = 0
    for cell in table["text"]:
        if isinstance(cell, Mapping):
            path = Path(cell["path"])
            size += path.stat().st_size if path.exists() else 0  # a link that leads nowhere is named when it is read
        else:
            size += len(cell or "")
    return size


def default_vocabulary(size: int, captions: bool = False) -> int:
    """Ids of a byte-pair vocabulary for `size` bytes: about their square root, a power of two in [512, 32768].

    Four times as many for captions, which say in few words what other text takes many for (docs/decisions.md).
    """
    size *= 16 if captions else 1
    return int(min(max(1 << round(np.log2(max(size, 1)) / 2 + 0.5), 512), 32768))


def _texts(blocks: Iterator[Block], total: int, progress: Progress) -> Iterator[str]:
    """The blocks that are not held out."""
    done = 0
    for block in blocks:
        done += len(block.text)
        progress("reading text for the tokenizer", min(done, total), total)
        if not block.held_out:
            yield block.text
    progress("learning the tokenizer", 0, 1)  # where pairs are merged, for which the library has no progress


def _batches(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """Blocks in lists of about `BATCH` characters."""
    waiting: list[Block] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block.text)
        if held >= BATCH:
            yield waiting
            waiting, held = [], 0
    if waiting:
        yield waiting


def _encode(folder: Path, table: Dataset, encoding: Encoding | WordEncoding, split: str, progress: Progress) -> Bad:
    """Write `train.ids` and `held_out.ids`; return the documents that could not be read."""
    total, done = text_size(table), 0
    bad: Bad = []
    offsets = {name: [0] for name in NAMES}
    counts = dict.fromkeys(NAMES, 0)
    end = np.array([encoding.end], encoding.dtype)
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.ids", "wb")) for name in NAMES}
        for blocks in _batches(split_documents(table, split, bad)):
            for block, ids in zip(blocks, encoding([block.text for block in blocks]), strict=True):
                name = NAMES[block.held_out]
                files[name].write(ids.tobytes())
                counts[name] += len(ids)
                if not block.last:
                    continue
                if len(table) > 1 and counts[name] > offsets[name][-1]:  # an empty document has no end either
                    files[name].write(end.tobytes())
                    counts[name] += 1
                offsets[name].append(counts[name])
            done += sum(len(block.text.encode("utf-8", "surrogatepass")) for block in blocks)
            progress("preparing text", min(done, total), total)
    for name in NAMES:
        if counts[name] > offsets[name][-1]:  # the document ends on the other side
            offsets[name].append(counts[name])
        np.save(folder / f"{name}.npy", np.array(offsets[name], np.int64))
    return bad


def _counts(ids: Path, dtype: type[np.generic], size: int) -> np.ndarray:
    """(size,) int64: how often each id occurs in a file of them."""
    total = np.zeros(size, np.int64)
    with open(ids, "rb") as file:
        while len(some := np.fromfile(file, dtype, BATCH)):
            total += np.bincount(some, minlength=size)
    return total


def _tokenizer_folder(  # noqa: PLR0913 - all that a tokenizer depends on
    part: Part,
    valid: Part | None,
    split: str,
    tokenizer: str,
    size: int | None,
    lines: Lines,
    rules: WordRules,
    root: Path,
    progress: Progress,
) -> Path:
    """The folder of the tokenizer: learned from the training texts, or a ready one; `size` is of its vocabulary.

    Characters are listed, so those of what is held out too; pairs are learned, so not from it.
    """
    listed = [valid] if valid is not None and tokenizer == "char" else []

    def learn(folder: Path) -> None:
        if tokenizer in OWN:
            parts = [(part, "nothing" if tokenizer == "char" else split), *((other, "nothing") for other in listed)]
            blocks = chain.from_iterable(split_documents(one.table, how, []) for one, how in parts)
            total = sum(text_size(one.table) for one, _ in parts)
            texts = _texts(blocks, total, progress)
            if tokenizer == "word":
                words = frequent_words(count_words(texts, rules.case), rules.min_count, size)
                found = word_tokenizer(words, rules.case)
            else:
                found = train_tokenizer(tokenizer, size or default_vocabulary(total), texts, lines)
            progress("learning the tokenizer", 1, 1)
        else:
            found = load_tokenizer(tokenizer, lines)
        found.save_pretrained(folder)

    key: dict[str, object] = {
        "identity": [part.identity, *(other.identity for other in listed)], "split": split,
        "tokenizer": identity(tokenizer), "vocabulary": size if tokenizer in LEARNED else None,
        "lines": lines, "rules": asdict(rules) if tokenizer == "word" else None,
    }  # fmt: skip
    return stored(root, "tokenizer", key, learn)


def _named(folder: Path, count: int) -> None:
    """Warn of the documents that could not be read; a lone one is an error."""
    bad = json.loads((folder / "store.json").read_text())["bad"]
    if bad and count == len(bad):
        more = f", and {count - 1} more" if count > 1 else ""
        raise UserError(f"{bad[0][1]}{more}: {bad[0][2]}; text must be UTF-8")
    if bad:
        log.warning(
            "%d of %d documents cannot be read to their end, such as %s (%s); all are named in %s",
            len(bad), count, bad[0][1], bad[0][2], folder / "store.json",
        )  # fmt: skip


def _stores(folder: Path) -> list[TokenStore]:
    """The training and the held-out part in a folder."""
    known = open_tokenizer(folder / "tokenizer")
    dtype = id_type(known)
    found = []
    for name in NAMES:
        count = (folder / f"{name}.ids").stat().st_size // np.dtype(dtype).itemsize
        ids = Mapped(folder / f"{name}.ids", dtype, (count,))
        found.append(TokenStore(ids, 0, count, np.load(folder / f"{name}.npy"), known))
    return found


def open_tokens(
    part: Part,
    valid: Part | None,
    tokenizer: str,
    vocabulary: int | None,
    root: Path,
    progress: Progress,
    lines: Lines = "keep",
    rules: WordRules | None = None,
) -> tuple[TokenStore, TokenStore]:
    """The prepared text of a source: training and held-out part.

    Args:
        part: documents to train on; without `valid`, the fixed 5 % of them, or the end of a lone one, is held out.
        valid: the user's own held-out documents.
        tokenizer: `byte`, `char`, `bpe`, `word`, or the name of a ready one.
        vocabulary: ids of a `bpe` tokenizer, chosen from the amount of text where None; most words of `word`.
        root: folder of all stores.
        progress: told (what, done, of) as the work goes on.
        lines: whether line breaks inside a paragraph are kept, or joined by a space.
        rules: which words `word` knows.

    Raises:
        UserError: nothing readable, too little text, or the cache cannot be written.
    """
    least = 256 + len(SPECIAL)
    if tokenizer in PAIRS:
        vocabulary = vocabulary or default_vocabulary(text_size(part.table), tokenizer == "caption")
    if tokenizer in PAIRS and vocabulary is not None and vocabulary < least:
        raise UserError(f"--vocabulary {vocabulary} is too small: byte pairs need 256 bytes and 5 marks, {least}")
    split = how_to_split(part.table) if valid is None else "nothing"
    learned = _tokenizer_folder(part, valid, split, tokenizer, vocabulary, lines, rules or WordRules(), root, progress)

    @cache
    def encoding() -> Encoding | WordEncoding:
        ready = AutoTokenizer.from_pretrained(str(learned))
        return WordEncoding(ready, lines) if reads_words(ready) else Encoding(ready, tokenizer)

    def shown(content: Part, split: str) -> list[TokenStore]:
        def build(folder: Path) -> None:
            bad = _encode(folder, content.table, encoding(), split, progress)
            (folder / "store.json").write_text(json.dumps({"bad": bad}))
            shutil.copytree(learned, folder / "tokenizer")
            np.save(folder / "tokenizer" / COUNTS, _counts(folder / "train.ids", encoding().dtype, encoding().size))

        key: dict[str, object] = {
            "identity": content.identity, "split": split, "tokenizer": learned.name, "lines": lines,
        }  # fmt: skip
        folder = stored(root, "tokens", key, build)
        _named(folder, len(content))
        return _stores(folder)

    train, held_out = shown(part, split)
    if valid is not None:
        held_out, _ = shown(valid, "nothing")
    if len(train) < 2:
        raise UserError(f"the text has {len(train)} tokens to train on; nothing can be learned from it")
    return train, held_out

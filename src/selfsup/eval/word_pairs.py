"""Pairs of sentences with a word in common, which means the same in both or does not, as lines of JSON."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsup.data.handed_over import PARTS
from selfsup.errors import UserError
from selfsup.eval.json_lines import json_records

log = logging.getLogger("selfsup")
FIELDS = ("word", "sentence1", "sentence2", "label")
NEEDED = ", ".join(FIELDS)
SHARED = 0.75  # of the letters of a word have to begin its form in a sentence


@dataclass(frozen=True)
class WordPair:
    """Two sentences with one word.

    Attributes:
        sentences: the two.
        spans: first character of the word in each, and the one after its last.
        same: whether it means the same in both.
    """

    sentences: tuple[str, str]
    spans: tuple[tuple[int, int], tuple[int, int]]
    same: bool

    @property
    def half(self) -> int:
        """0 or 1 by content: equal sentences always fall on one side."""
        return hashlib.blake2b("\n".join(self.sentences).encode("utf-8", "replace"), digest_size=1).digest()[0] % 2


@dataclass(frozen=True)
class WordPairs:
    """Pairs to choose a threshold on, and pairs to score.

    Attributes:
        split: what the pairs to score are.
        fit: to choose on.
        test: to score.
    """

    split: str
    fit: list[WordPair]
    test: list[WordPair]


def _shared(first: str, second: str) -> int:
    """With how many equal letters two words begin."""
    pairs = zip(first.lower(), second.lower(), strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def spot(word: str, sentence: str) -> tuple[int, int] | None:
    """Where a word stands in a sentence: as it is, else as the form that shares the longest beginning with it."""
    whole = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, re.IGNORECASE)
    if whole:
        return whole.span()
    forms = list(re.finditer(r"\w+", sentence))
    best = max(forms, key=lambda form: (_shared(form[0], word), -len(form[0])), default=None)  # of equals the shortest
    return best.span() if best and _shared(best[0], word) >= SHARED * len(word) else None


def _span(record: dict[str, Any], number: int, where: str) -> tuple[int, int] | None:
    """Where the word stands in the first or second sentence of a record, as it says or by `spot`."""
    sentence, ends = record[f"sentence{number}"], [record.get(f"{end}{number}") for end in ("start", "end")]
    if ends == [None, None]:
        return spot(record["word"], sentence)
    start, stop = ends
    if not isinstance(start, int) or not isinstance(stop, int) or not 0 <= start < stop <= len(sentence):
        allowed = f"0 <= start < end <= {len(sentence)}, the characters of its sentence"
        raise UserError(f"{where}: 'start{number}' {start} and 'end{number}' {stop} are not allowed: {allowed}")
    return start, stop


def _pair(record: dict[str, Any], where: str) -> WordPair | None:
    """A record as a pair; None where the word is not found.

    Raises:
        UserError: a field is missing, or holds what it cannot.
    """
    for name in FIELDS:
        if name not in record:
            raise UserError(f"{where} has no field {name!r}; needed are {NEEDED}")
        if name != "label" and not (isinstance(record[name], str) and record[name].strip()):
            raise UserError(f"{where}: {name!r} has to be a text with a word in it, not {record[name]!r}")
    if record["label"] not in (True, False):  # 1 and 0 are equal to these
        raise UserError(f"{where}: 'label' {record['label']!r} is not allowed; give true or false, or 1 or 0")
    first, second = (_span(record, number, where) for number in (1, 2))
    if first is None or second is None:
        return None
    return WordPair((record["sentence1"], record["sentence2"]), (first, second), bool(record["label"]))


def _files(place: Path) -> dict[str, Path]:
    """The parts of a file or folder by name; a lone file is the part to train on."""
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; give pairs of sentences as .jsonl, one object a line")
    if place.is_file():
        return {"train": place}
    files = sorted(place.glob("*.jsonl"))
    parts = {PARTS[file.stem.lower()]: file for file in files if file.stem.lower() in PARTS}
    if not parts and len(files) == 1:
        return {"train": files[0]}
    if not parts:
        raise UserError(f"{place}: no train.jsonl, valid.jsonl or test.jsonl in it, and not one .jsonl file either")
    return parts


def open_word_pairs(place: Path) -> WordPairs:
    """Read pairs of sentences.

    A part `test` is scored, else `valid`, and the threshold chosen on `train`; where there is nothing else, half of the
    pairs by content serve to choose and half are scored. A test part without labels, as benchmarks have it, is left
    out.

    Args:
        place: a .jsonl file, or a folder with train.jsonl and valid.jsonl or test.jsonl.

    Raises:
        UserError: no such file, a line that is no pair, or pairs of one label only.
    """
    records = {name: json_records(file, NEEDED) for name, file in _files(place).items()}
    if len(records) > 1 and "test" in records and not any("label" in record for _, record in records["test"]):
        log.info("%s: the test part has no labels, left out", place)
        del records["test"]
    scored = next(name for name in ("test", "valid", "train") if name in records)
    wanted = {name: part for name, part in records.items() if name in (scored, "train")}
    pairs = {name: [_pair(record, where) for where, record in part] for name, part in wanted.items()}
    lost, total = sum(part.count(None) for part in pairs.values()), sum(map(len, pairs.values()))
    if lost:
        log.warning("%s: %d of %d pairs left out: the word is not in its sentence", place, lost, total)
    found = {name: [pair for pair in part if pair] for name, part in pairs.items()}
    if scored != "train" and "train" in found:
        opened = WordPairs(scored, found["train"], found[scored])
    else:
        split = "half by content" if scored == "train" else f"half of {scored} by content"
        fit, test = ([pair for pair in found[scored] if pair.half == half] for half in (0, 1))
        opened = WordPairs(split, fit, test)
    for part, use in ((opened.fit, "to choose a threshold on"), (opened.test, "to score")):
        labels = {pair.same for pair in part}
        if len(labels) < 2:
            have = f", all with the label {str(labels.pop()).lower()}" if labels else ""
            raise UserError(f"{place}: {len(part)} of {total} pairs {use}{have}; some true and some false are needed")
    return opened

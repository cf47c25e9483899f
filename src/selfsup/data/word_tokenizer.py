"""Tokens that are words: how text is cut into them, which of them are known, and the tokenizer that says so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import regex
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Tokens
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selfsup.data.tokenizer import END, MARKS, SPECIAL, Lines, end_id, id_type
from selfsup.errors import UserError

Case = Literal["lower", "keep"]
# Words by Unicode Standard Annex 29, in short: letters and digits in a row, with an apostrophe or a point between two
# of them, a comma between digits; in Han and Hiragana every sign. In syntax that Oniguruma and `regex` (V1) share.
LETTER = r"[\p{L}\p{M}\p{N}_&&[^\p{Han}\p{Hiragana}]]"
WORD = rf"{LETTER}+(?:(?:['·.]|(?<=\p{{N}}),(?=\p{{N}})){LETTER}+)*|[\p{{Han}}\p{{Hiragana}}]\p{{M}}*"
BREAKS: dict[Lines, str] = {"keep": r"\n", "join": r"\n(?=\s*\n)"}
ROOM = 1 << 22  # different words that are counted at once: some 500 MB
FIND: Callable[[str], list[str]] = regex.compile("(?V1)" + WORD).findall
APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"


@dataclass(frozen=True)
class WordRules:
    """Which words are known.

    Attributes:
        min_count: those that occur so often at least.
        case: whether in lower case.
    """

    min_count: int = 5
    case: Case = "lower"


def plain(text: str, case: Case) -> str:
    """Text as words are looked for in it: one kind of apostrophe, and where asked in lower case.

    Python's lower case of a sigma depends on its place in the word, that of the tokenizers library does not.
    """
    text = text.replace(APOSTROPHE, "'")
    if case == "keep":
        return text
    return text.replace("\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER SIGMA}").lower()


def words_of(text: str, case: Case) -> list[str]:
    """The words of a text, in order."""
    return FIND(plain(text, case))


def count_words(texts: Iterable[str], case: Case, room: int = ROOM) -> Counter[str]:
    """How often each word occurs, in bounded memory: beyond `room` different ones, the rarest are forgotten.

    As in word2vec's own program, each time this is done it takes one occurrence more to be kept.
    """
    counts: Counter[str] = Counter()
    least = 1
    for text in texts:
        counts.update(words_of(text, case))
        while len(counts) > room:
            counts = Counter({word: number for word, number in counts.items() if number > least})
            least += 1
    return counts


def frequent_words(counts: Counter[str], min_count: int, most: int | None) -> list[str]:
    """The words to know, commonest first.

    Raises:
        UserError: fewer than two.
    """
    known = sorted((-number, word) for word, number in counts.items() if number >= min_count)[:most]
    if len(known) > 1:
        return [word for _, word in known]
    if len(counts) < 2:
        raise UserError(f"the text has {len(counts)} different words; nothing can be learned from it")
    second = counts.most_common(2)[1][1]
    if second >= min_count:  # --vocabulary 1
        raise UserError(f"--vocabulary {most}: allowed is 2 or more words")
    raise UserError(
        f"--min-count {min_count} leaves {len(known)} of {len(counts)} words: the second commonest occurs {second} "
        f"times; try --min-count {second} or less"
    )


def word_tokenizer(words: list[str], case: Case) -> PreTrainedTokenizerFast:
    """The tokenizer that knows these words; all others are the end token to it."""
    tokens = Tokens(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *words))}, unk_token=END))
    same = normalizers.Replace(APOSTROPHE, "'")
    tokens.normalizer = normalizers.Sequence([same, normalizers.Lowercase()]) if case == "lower" else same
    tokens.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, eos_token=END, bos_token=END, clean_up_tokenization_spaces=False, **MARKS
    )


def reads_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is one of these."""
    mine = json.loads(pre_tokenizers.Split(Regex(WORD), "removed", invert=True).__getstate__())
    cut = tokenizer.backend_tokenizer.pre_tokenizer  # type: ignore[attr-defined]
    return cut is not None and json.loads(cut.__getstate__()) == mine


def case_of(tokenizer: PreTrainedTokenizerBase) -> Case:
    """In which case one of these reads words."""
    return "lower" if "Lowercase" in str(tokenizer.backend_tokenizer.normalizer) else "keep"  # type: ignore[attr-defined]


class WordEncoding:
    """Turns text into the ids of its known words, as if the others were not there; sentences end with the end token.

    Attributes:
        dtype: of the ids.
        end: id of the end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, lines: Lines) -> None:
        self.end = end_id(tokenizer)
        self.case: Case = case_of(tokenizer)
        self.dtype, self.size = id_type(tokenizer), len(tokenizer)
        self.find: Callable[[str], list[str]] = regex.compile(f"(?V1){WORD}|{BREAKS[lines]}").findall
        marks = set(SPECIAL)
        self.ids = {word: number for word, number in tokenizer.get_vocab().items() if word not in marks}
        self.ids["\n"] = self.end

    def __call__(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Ids of each text."""
        for text in texts:
            known = (self.ids.get(word, -1) for word in self.find(plain(text, self.case)))
            ids = np.fromiter(known, np.int64)
            ids = ids[ids >= 0]
            twice = (ids[1:] == self.end) & (ids[:-1] == self.end)
            yield np.delete(ids, np.flatnonzero(twice)).astype(self.dtype)

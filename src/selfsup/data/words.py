"""Where words begin and sentences end, told from the tokens themselves: one table look-up a token."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerBase

from selfsup.data.tokenizer import byte_symbols

# How a sentence or a paragraph ends; what may stand behind the mark; marks that need no space after them.
ENDS = re.compile(r"[.!?…。！？।॥؟۔][\"'”’»」』)\]]*\s*$|\n\s*\n")  # noqa: RUF001
CLOSES = re.compile(r"[\"'”’»」』)\]]+$")  # noqa: RUF001
WIDE = re.compile(r"[。！？।॥]")  # noqa: RUF001
# Scripts that put no space between words: there every token is one.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
HALF = "\N{REPLACEMENT CHARACTER}"  # some bytes of a character
# First bytes of Chinese and Japanese characters in UTF-8, in the printable form that byte-level tokenizers write.
UNSPACED_BYTES = tuple(byte_symbols()[0xE3:0xEA])


@dataclass(frozen=True)
class Words:
    """Tables over a vocabulary of V tokens.

    Attributes:
        begins: (V,) bool, a word begins with this token.
        ends: (V,) bool, a sentence may end with it.
        closes: (V,) bool, closing quotes and brackets only, or some bytes of a character, which may be one.
        opens: (V,) bool, white space comes first, or need not: the sentence before it can be over.
        wide: (V,) bool, it ends a sentence without white space after it.
        blank: (V,) bool, white space only.
        line: (V,) bool, a line ends in that.
    """

    begins: np.ndarray
    ends: np.ndarray
    closes: np.ndarray
    opens: np.ndarray
    wide: np.ndarray
    blank: np.ndarray
    line: np.ndarray

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Words:
        """Read from what each token stands for."""
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        texts = [str(text) for text in tokenizer.batch_decode([[number] for number in range(len(pieces))])]
        model: Any = tokenizer.backend_tokenizer.model  # type: ignore[attr-defined]
        continued = isinstance(model, WordPiece)
        if continued:
            prefix = model.continuing_subword_prefix
            texts = [text.removeprefix(prefix) for text in texts]
            begins = [piece is not None and not piece.startswith(prefix) for piece in pieces]
        else:
            # SentencePiece drops the space of a lone token when it is decoded.
            texts = [
                f" {text.lstrip()}" if piece and piece.startswith("▁") else text
                for piece, text in zip(pieces, texts, strict=True)
            ]
            begins = [_begins_word(text, str(piece)) for text, piece in zip(texts, pieces, strict=True)]
        spaced = not continued and any(text[:1].isspace() for text in texts)
        return cls(
            begins=np.array(begins, bool),
            ends=np.array([bool(ENDS.search(text)) for text in texts], bool),
            closes=np.array([bool(CLOSES.match(text)) or set(text) == {HALF} for text in texts], bool),
            opens=np.array([not spaced or text[:1].isspace() for text in texts], bool),
            wide=np.array([bool(WIDE.search(text)) or text[-1:].isspace() for text in texts], bool),
            blank=np.array([text.isspace() for text in texts], bool),
            line=np.array([text.isspace() and "\n" in text for text in texts], bool),
        )


def _begins_word(text: str, piece: str) -> bool:
    """Whether a word begins with a token of this text: after a space, at a mark, and in scripts without spaces."""
    first = text[:1]
    if first == HALF:
        return piece.startswith(UNSPACED_BYTES)
    if not first or unicodedata.category(first).startswith("M"):
        return False
    return not first.isalnum() or unicodedata.name(first, "").startswith(UNSPACED)

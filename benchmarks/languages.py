"""What the tokenizers make of other languages: how much text a token holds, and whether it comes back as it was.

    python benchmarks/languages.py --data multilingual [--vocabulary 8192]

DIR has a text file a language. A tokenizer learns from the first nine tenths of each and is asked about the rest, line
by line. `changed`: share of the characters whose line is another text after encoding and decoding (for characters, a
line with one that was never seen). `bpe as GPT-2` cuts text into words as GPT-2 does, before the vowel signs of Hindi.
A table in Markdown goes to standard output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from transformers import PreTrainedTokenizerBase

from selfsup.data import tokenizer as tokenizers

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
HEAD = "| language | tokenizer | kinds | bytes a token | characters a token | changed |\n|---|---|---|---|---|---|\n"


def candidates(text: str, vocabulary: int) -> Iterator[tuple[str, PreTrainedTokenizerBase]]:
    """Tokenizers that know a text, by name."""
    for kind in tokenizers.OWN:
        yield kind, tokenizers.train_tokenizer(kind, vocabulary, [text])
    with patch.object(tokenizers, "WORDS", GPT2):
        yield "bpe as GPT-2", tokenizers.train_tokenizer("bpe", vocabulary, [text])


def row(language: str, name: str, tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> str:
    """A line of the table."""
    ids = tokenizer(lines, add_special_tokens=False)["input_ids"]
    tokens, characters = sum(map(len, ids)), sum(map(len, lines))
    size = sum(len(line.encode()) for line in lines)
    changed = sum(len(line) for line, known in zip(lines, ids, strict=True) if tokenizer.decode(known) != line)
    figures = f"{size / tokens:.2f} | {characters / tokens:.2f} | {changed / characters:.2%}"
    return f"| {language} | {name} | {len(tokenizer):,} | {figures} |\n"


def main() -> None:
    """All languages with all tokenizers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=8192)
    given = parser.parse_args()
    sys.stdout.write(HEAD)
    for file in sorted(given.data.glob("*.txt")):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        known = len(lines) * 9 // 10
        for name, tokenizer in candidates("".join(lines[:known]), given.vocabulary):
            sys.stdout.write(row(file.stem, name, tokenizer, lines[known:]))


if __name__ == "__main__":
    main()

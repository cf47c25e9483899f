"""The tokens that a masked language model has to tell, and what n-grams make of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.data.words import HALF
from selfsup.encoder import evaluating
from selfsup.eval.ngram import NGram
from selfsup.objective import Objective

BATCH = 64


def token_sizes(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """(V,) bytes of text that each token stands for, its space included; of marks 0."""
    ids = list(range(len(tokenizer)))
    # Alone, a token may lose its space, or show that it goes on with a word; behind another it is as in a text.
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    alone = len(str(tokenizer.decode(before)).encode("utf-8"))
    texts = tokenizer.batch_decode([[*before, number] for number in ids])
    sizes = np.zeros(len(ids), np.int64)
    for number, text, piece in zip(ids, texts, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if HALF in text and HALF not in piece:  # some bytes of a character: a sign for each, or one written as <0xE4>
            sizes[number] = 1 if piece.startswith("<0x") else len(piece)
        else:
            sizes[number] = len(str(text).encode("utf-8")) - alone
    sizes[list(tokenizer.all_special_ids)] = 0
    return sizes


@dataclass(frozen=True)
class Hidden:
    """Rows of text, and which of their tokens are hidden.

    Attributes:
        tokens: (N, L) int64, as they were, with the tokenizer's marks.
        length: (N,) int64, how many of a row count.
        counted: (N, L) bool, which have to be told.
    """

    tokens: NDArray[np.int64]
    length: NDArray[np.int64]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, objective: Objective, reader: Reader) -> Hidden:
        """What an objective hides of all rows of a reader in validation; it is on the CPU."""
        rows = np.arange(len(reader))
        found: dict[str, list[NDArray]] = {"target": [], "length": [], "counted": []}
        with evaluating(objective):
            for batch, draw in batches(reader, [(-1, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)], 0):
                views = objective.views(batch, draw)
                for name, parts in found.items():
                    parts.append(views[name].numpy())
        return cls(*(np.concatenate(parts) for parts in found.values()))

    def size(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Bytes of text of the hidden tokens."""
        return int(token_sizes(tokenizer)[self.tokens[self.counted]].sum())

    def told_by(self, model: NGram) -> tuple[NDArray[np.float64], int, int]:
        """As `window_losses`, by an n-gram model.

        It sees what stands before a token in its row, without the row before; also tokens that are hidden from a
        network, but nothing to the right. A mark at the start of a row is no token that it knows, so it tells it
        nothing.
        """
        nats, correct = model.score_rows(self.tokens, self.length)
        return (nats * self.counted).sum(1), int(self.counted.sum()), int(correct[self.counted].sum())

"""The tokens that a masked language model has to tell, and what n-grams make of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.data.words import HALF
from selfsup.encoder import evaluating
from selfsup.eval.ngram import NGram
from selfsup.nn.head import token_losses
from selfsup.nn.ragged import passes
from selfsup.objective import Objective
from selfsup.progress import Progress

BATCH = 64
MOST = 10_000  # rows that are looked at


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of the numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


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
        shown: (N, L), what the network is shown, with the tokenizer's marks.
        tokens: (N, L), what they were.
        length: (N,), how many of a row count.
        counted: (N, L) bool, which have to be told.
        types: (N, L), in which of two segments each is; None where there is one.
    """

    shown: Tensor
    tokens: Tensor
    length: Tensor
    counted: Tensor
    types: Tensor | None

    @classmethod
    def of(cls, objective: Objective, reader: Reader) -> Hidden:
        """What an objective hides of the rows of a reader in validation, of up to `MOST`; it is on the CPU.

        Of rows that are shown in several arrangements the first is taken, which is the author's.
        """
        rows = evenly(len(reader), MOST)
        found: dict[str, list[Tensor]] = {}
        with evaluating(objective):
            for batch, draw in batches(reader, [(-1, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)], 0):
                views = objective.views(batch, draw)
                several = views["length"].dim() == 2
                for name in views.keys() & {"input", "target", "length", "counted", "types"}:
                    found.setdefault(name, []).append(views[name][:, 0] if several else views[name])
        whole = {name: torch.cat(parts) for name, parts in found.items()}
        return cls(whole["input"], whole["target"], whole["length"], whole["counted"], whole.get("types"))

    def told_by_network(self, network: PreTrainedModel, progress: Progress) -> tuple[NDArray[np.float64], int, int]:
        """As `window_losses`, by a network with its head for masked words."""
        count = len(self.length)
        nats, correct = torch.zeros(count, dtype=torch.float64), 0
        with evaluating(network):
            for start in range(0, count, BATCH):
                part = slice(start, start + BATCH)
                types = None if self.types is None else self.types[part].to(network.device)
                ids, length = self.shown[part].to(network.device), self.length[part].to(network.device)
                for some, states, _, _ in passes(network, ids, length, types):
                    rows = start + some.cpu()
                    asked = self.counted[rows, : states.shape[1]]
                    targets = self.tokens[rows, : states.shape[1]][asked].to(network.device)
                    found, right = token_losses(network, states[asked.to(network.device)], targets)
                    nats.index_add_(0, rows[asked.nonzero()[:, 0]], found.double().cpu())
                    correct += int(right.sum())
                progress.part("scoring hidden words", min(start + BATCH, count), count)
        return nats.numpy(), int(self.counted.sum()), correct

    def size(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Bytes of text of the hidden tokens."""
        return int(token_sizes(tokenizer)[self.tokens[self.counted].numpy()].sum())

    def told_by(self, model: NGram) -> tuple[NDArray[np.float64], int, int]:
        """As `window_losses`, by an n-gram model.

        It sees what stands before a token in its row, without the row before; also tokens that are hidden from a
        network, but nothing to the right. A mark at the start of a row is no token that it knows, so it tells it
        nothing.
        """
        nats, correct = model.score_rows(self.tokens.numpy(), self.length.numpy())
        counted = self.counted.numpy()
        return (nats * counted).sum(1), int(counted.sum()), int(correct[counted].sum())

"""Encoders that are a table: a vector for each word, and weighted means of them for sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from selfsup.data.tokenizer import end_id, open_tokenizer
from selfsup.data.tokens import COUNTS
from selfsup.data.word_tokenizer import Case, case_of, plain, reads_words, words_of
from selfsup.encoder import ABOUT, Encoder
from selfsup.errors import UserError
from selfsup.nn.word_table import WordTable

AT_ONCE = 1024  # words that are looked at together, so that no second table is made
RARE = 1e-3  # a of a / (a + p): what a word of probability p weighs in a sentence


def _words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The words of a vocabulary by their ids."""
    numbers = tokenizer.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


@dataclass(frozen=True)
class Near:
    """A word that is near to what was asked for, and the cosine."""

    word: str
    cosine: float


class WordVectors(Encoder):
    """Vectors of words. The vector of a text is that of Arora et al. 2017 ("A Simple but Tough-to-Beat Baseline").

    It is the mean of its words' vectors, each weighted by a / (a + p) for a word of probability p, and without the
    direction that all texts share: the first principal component of words weighted like this, drawn by their
    frequency. Words that are not known do not count; a text without any has the vector 0.

    Attributes:
        module: the table.
        tokenizer: whose ids are its rows.
        words: (V,) by their ids.
        ids: of the words that are known.
        end: id of what stands between sentences.
        counts: (V,) int64, how often each word occurred in training.
        context: words in a stretch of text, where one is needed.
    """

    kind = "text"
    context = 32
    module: WordTable  # type: ignore[assignment]

    def __init__(self, table: WordTable, words: list[str], tokenizer: PreTrainedTokenizerBase, counts: Tensor) -> None:
        self.module, self.tokenizer, self.counts = table, tokenizer, counts  # type: ignore[override]
        self.words, self.end = words, end_id(tokenizer)
        seen = counts.tolist()
        self.ids = {word: number for number, word in enumerate(self.words) if seen[number] and number != self.end}
        self._case: Case | None = case_of(tokenizer) if reads_words(tokenizer) else None

    @classmethod
    def create(cls, folder: Path, width: int, spelling: tuple[int, int] | None, buckets: int) -> WordVectors:
        """A table with fresh weights for the tokenizer in a folder, which has the counts beside it."""
        tokenizer = open_tokenizer(folder)
        counts = torch.from_numpy(np.load(folder / COUNTS))
        words = _words(tokenizer)
        return cls(WordTable(words, width, spelling, buckets), words, tokenizer, counts)

    def with_counts(self, folder: Path) -> WordVectors:
        """The same vectors for other text: of each word the larger of its counts, there and here."""
        there = torch.from_numpy(np.load(folder / COUNTS))
        return WordVectors(self.module, self.words, self.tokenizer, torch.maximum(self.counts, there))

    @property
    def width(self) -> int:
        """D."""
        return self.module.weight.shape[1]

    def ids_of(self, text: str) -> Tensor:
        """(N,) int64 of the known words of a text, in order."""
        if self._case is not None:
            known = np.fromiter((self.ids.get(word, -1) for word in words_of(text, self._case)), np.int64)
            return torch.from_numpy(known[known >= 0])
        found = torch.tensor(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).long()
        return found[(self.counts[found] > 0) & (found != self.end)]

    def table(self) -> Tensor:
        """(V, D) the vector of each word."""
        with torch.no_grad():
            return self.module(torch.arange(len(self.words), device=self.device))

    def word(self, word: str) -> Tensor:
        """(D,) of one word, as it is or as the tokenizer would write it; from n-grams if it is not known.

        Raises:
            UserError: it is not known, and there are no n-grams.
        """
        written = self.forms(word)[-1]
        known = next((self.ids[form] for form in self.forms(word) if form in self.ids), None)
        with torch.no_grad():
            found = self.module.spelled(written) if known is None else self.module(torch.tensor([known]))[0]
        if found is None:
            raise UserError(f"the vocabulary has no word {word!r}{self._like(written)}")
        return found

    def forms(self, word: str) -> list[str]:
        """A word as it is, and as the tokenizer would write it."""
        return [word, plain(word, self._case)] if self._case is not None else [word]

    def _like(self, word: str) -> str:
        """End of a message about an unknown word: the known ones that are spelled most like it."""
        import difflib

        alike = [other for other in self.ids if abs(len(other) - len(word)) < 3 and set(other) & set(word)]
        close = difflib.get_close_matches(word, alike, n=3, cutoff=0.6)
        return f"; spelled nearest: {', '.join(close)}" if close else ", nor one that is spelled like it"

    def nearest(self, query: Tensor, most: int, without: Sequence[str] = ()) -> list[Near]:
        """The words whose vectors have the highest cosine with (D,), but for some."""
        known = torch.tensor(sorted(self.ids.values()))
        cosines = F.normalize(self.table()[known], dim=1) @ F.normalize(query, dim=0)
        left_out = {self.ids[word] for word in without if word in self.ids}
        order = cosines.argsort(descending=True)[: most + len(left_out)].tolist()
        found = [(int(known[place]), float(cosines[place])) for place in order]
        return [Near(self.words[word], cosine) for word, cosine in found if word not in left_out][:most]

    def _weighted(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) the weighted vectors of words, and (N,) their probabilities."""
        p = self.counts[ids] / self.counts.sum().clamp(min=1)
        return self.module(ids) * (RARE / (RARE + p))[:, None], p

    def _common(self) -> Tensor:
        """(D,) the direction that all texts share."""
        total = torch.zeros(self.width, self.width, dtype=torch.float64)
        with torch.no_grad():
            for ids in torch.tensor(sorted(self.ids.values())).split(AT_ONCE):
                weighted, p = self._weighted(ids)
                total += (weighted * p[:, None]).T @ weighted
        return torch.linalg.eigh(total).eigenvectors[:, -1].to(self.module.weight.dtype)

    def rows(self) -> Tensor:
        """(V, D) what a text's vector is the mean of: words weighted, the common direction taken away."""
        common, known = self._common(), torch.tensor(sorted(self.ids.values()))
        weighted, _ = self._weighted(known)
        found = weighted.new_zeros(len(self.words), self.width)
        return found.index_copy(0, known, weighted - (weighted @ common)[:, None] * common)

    def _means(self, samples: Sequence[str]) -> Tensor:
        """(B, D) the means of the texts' weighted words."""
        ids = [self.ids_of(text) for text in samples]
        row = torch.repeat_interleave(torch.tensor([len(one) for one in ids]))
        weighted, _ = self._weighted(torch.cat(ids))
        total = weighted.new_zeros(len(samples), self.width).index_add(0, row, weighted)
        return total / torch.bincount(row, minlength=len(samples)).clamp(min=1)[:, None]

    def vectors(self, samples: Sequence[str]) -> Tensor:
        """(B, D) with gradients."""
        means, common = self._means(samples), self._common()
        return means - (means @ common)[:, None] * common

    def encode(self, samples: Sequence[str], batch: int = 64) -> Tensor:
        """(N, D) float32 on the CPU."""
        if not len(samples):
            return torch.zeros(0, self.width)
        with torch.no_grad():
            parts = [self._means(samples[start : start + batch]) for start in range(0, len(samples), batch)]
            means, common = torch.cat(parts).float(), self._common()
            return means - (means @ common)[:, None] * common

    def layers(self, samples: Sequence[str], batch: int = 256) -> list[Tensor]:
        """The vectors themselves: there is one layer."""
        return [self.encode(samples)]

    def fresh(self, seed: int) -> WordVectors:
        """The same table with new random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            table = WordTable(self.words, self.width, self.module.spelling, self.module.buckets)
        return WordVectors(table, self.words, self.tokenizer, self.counts)

    def to(self, device: torch.device | str) -> WordVectors:
        """This encoder: a table is read where it is."""
        return self

    def save(self, folder: Path) -> None:
        """Write the table, the tokenizer and the counts."""
        self.tokenizer.save_pretrained(folder)
        np.save(folder / COUNTS, self.counts.numpy())
        save_file({"weight": self.module.weight.detach().float().contiguous()}, folder / "model.safetensors")
        about = {
            "encoder": "words",
            "width": self.width,
            "ngrams": self.module.spelling,
            "buckets": self.module.buckets,
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, folder: Path) -> WordVectors:
        """The inverse of `save`."""
        about = json.loads((folder / ABOUT).read_text())
        spelling = tuple(about["ngrams"]) if about["ngrams"] else None
        found = cls.create(folder, about["width"], spelling, about["buckets"])
        found.module.load_state_dict(load_file(folder / "model.safetensors"))
        return found

"""What retrieved passages are worth to a language model: bits per byte of text that it has not seen.

Ram et al. 2023 ("In-Context RALM", arXiv 2302.00083): a network as it is, with passages in front of the text. The first
half of a held-out passage asks the index, and stands in the window in any case; only its second half, which the index
was never asked about, is scored: after nothing else, after random passages of the same index, after the retrieved ones.
What overlaps the held-out passage is not there to be found (Borgeaud et al. 2022, "RETRO", section 2.6: copies in the
index would be scored as language modelling).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from selfsup.data.draw import Draw
from selfsup.data.tokenizer import end_id
from selfsup.errors import UserError
from selfsup.eval.language import saved
from selfsup.eval.verdict import Gain
from selfsup.ops.language import bits_per_byte
from selfsup.predictors.generator import Generator
from selfsup.progress import Progress
from selfsup.search.index import Index
from selfsup.search.postings import words_of
from selfsup.search.query import Method, passages
from selfsup.search.ranking import Place

RUN = 8  # words in a row that make an overlap
CONDITIONS = ("none", "random", "retrieved")


@dataclass(frozen=True)
class HeldOut:
    """A passage that is scored.

    Attributes:
        id: of the document that it is of, which is taken out of the index for it.
        text: of the passage.
    """

    id: str
    text: str

    def halves(self) -> tuple[str, str]:
        """Its words in two, the second half with the white space before it.

        Raises:
            UserError: it has no two words.
        """
        ends = [word.end() for word in re.finditer(r"\S+", self.text)]
        if len(ends) < 2:
            raise UserError(f"the passage {self.text[:30]!r} has no halves; give passages of two words or more")
        cut = ends[len(ends) // 2 - 1]
        return self.text[:cut], self.text[cut:]


@dataclass(frozen=True)
class Told:
    """How well the second halves of N passages were told.

    Attributes:
        nats: (N,) of each under a name of `CONDITIONS`.
        bytes: (N,) of each.
        shown: (N,) tokens of the passages in front, equal for the random and the retrieved ones.
        out: (N,) rows of the index that were taken out.
        shared: (N,) most words in a row that a retrieved passage has in common with the held-out one: fewer than what
            makes an overlap.
    """

    nats: dict[str, np.ndarray]
    bytes: np.ndarray
    shown: np.ndarray
    out: np.ndarray
    shared: np.ndarray

    def bits(self, condition: str) -> float:
        """Bits per byte of all halves together."""
        return bits_per_byte(float(self.nats[condition].sum()), int(self.bytes.sum()))

    def gain(self, over: str) -> Gain:
        """Bits per byte that the retrieved passages save, with its interval over passages, each paired with itself."""
        sums = {"run": self.nats["retrieved"], over: self.nats[over]}
        return saved(sums, int(self.bytes.sum()))


def runs(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """All stretches of so many words of a text."""
    words = words_of(text)
    yield from (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def longest_run(first: str, second: str) -> int:
    """Most words in a row that two texts have in common."""
    one, other = words_of(first), words_of(second)
    best, lengths = 0, [0] * (len(other) + 1)
    for word in one:
        lengths = [0] + [lengths[place] + 1 if word == there else 0 for place, there in enumerate(other)]
        best = max(best, *lengths)
    return best


def overlapping(index: Index, held_out: Sequence[HeldOut], size: int = RUN) -> list[set[Place]]:
    """Rows of an index that each held-out passage must not see: of its own document, or that share a run of words."""
    by_run: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    by_id: defaultdict[str, set[int]] = defaultdict(set)
    for number, one in enumerate(held_out):
        by_id[one.id].add(number)
        for run in runs(one.text, size):
            by_run[run].add(number)
    found: list[set[Place]] = [set() for _ in held_out]
    for segment, part in enumerate(index.segments):
        for row, (name, text) in part.alive("id", "text"):
            shared = (by_run[run] for run in runs(text, size) if run in by_run)
            for number in by_id.get(name, set()).union(*shared):
                found[number].add((segment, row))
    return found


@dataclass(frozen=True)
class Comparison:
    """How a held-out passage is told with and without others in front.

    Attributes:
        index: of texts.
        generator: the language model.
        k: most passages in front.
        method: how they are found, see `rank`.
        seed: of the random ones.
        between: text between passages.
    """

    index: Index
    generator: Generator
    k: int = 5
    method: Method | None = None
    seed: int = 0
    between: str = "\n\n"

    def told(self, held_out: Sequence[HeldOut], progress: Progress) -> Told:
        """Score the second halves of some passages.

        Raises:
            UserError: a passage that has no halves, or more tokens than the window.
        """
        windows: dict[str, list[tuple[list[int], int]]] = {name: [] for name in CONDITIONS}
        out = overlapping(self.index, held_out)
        texts = [part.column("text") for part in self.index.segments]
        shown, shared, bytes_ = [], [], []
        for number, (one, hidden) in enumerate(zip(held_out, out, strict=True)):
            first, rest = one.halves()
            there = [part.there.copy() for part in self.index.segments]
            for segment, row in hidden:
                there[segment][row] = False
            found = [hit.text or "" for hit in passages(self.index, first, self.k, self.method, there)]
            start, scored = end_id(self.generator.tokenizer), self._ids(rest)
            tail = [*self._ids(first), *scored]
            room = self.generator.context - 1 - len(tail)
            if room < 0:
                raise UserError(
                    f"held-out passage {number} has {len(tail)} tokens, allowed are {room + len(tail)}: this network "
                    f"reads {self.generator.context} at once; give shorter ones"
                )
            retrieved = self._front(found, first)[-room:] if room else []
            others = self._front(self._random(texts, there, number, len(retrieved)), first)
            size = min(len(retrieved), len(others))
            fronts = ([], others[len(others) - size :], retrieved[len(retrieved) - size :])
            for name, front in zip(CONDITIONS, fronts, strict=True):
                windows[name].append(([start, *front, *tail], len(scored)))
            shown.append(size)
            shared.append(max((longest_run(one.text, text) for text in found), default=0))
            bytes_.append(len(rest.encode("utf-8")))
            progress.part("looking for neighbors", number + 1, len(held_out))
        nats = {name: -self.generator.likelihood_in(pairs).double().numpy() for name, pairs in windows.items()}
        rows = np.array([len(some) for some in out])
        return Told(nats, np.array(bytes_), np.array(shown), rows, np.array(shared))

    def _ids(self, text: str) -> list[int]:
        return self.generator.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _front(self, texts: Sequence[str], first: str) -> list[int]:
        """The tokens of passages in front of a first half, the first of them nearest to it."""
        whole = self._ids(self.between.join([*reversed(texts), first]))
        return whole[: len(whole) - len(self._ids(first))]

    def _random(
        self, texts: Sequence[pa.ChunkedArray], there: Sequence[np.ndarray], number: int, size: int
    ) -> list[str]:
        """Passages in a random order, until they have so many tokens."""
        places = [(segment, row) for segment, some in enumerate(there) for row in np.flatnonzero(some).tolist()]
        order = Draw(self.seed, 0, torch.tensor([number])).permutation("random", len(places))[0].tolist()
        found, held = [], 0
        while order and held < size:
            segment, row = places[order.pop()]
            found.append(str(texts[segment][row]))
            held += len(self._ids(found[-1]))
        return found

"""Whether a run knows which passage follows which, without labels: order, continuation, and a choice of four."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from selfsup.data.draw import Draw
from selfsup.data.segments import SegmentReader
from selfsup.data.token_store import TokenStore
from selfsup.errors import UserError
from selfsup.eval.hidden import evenly
from selfsup.eval.language import PAST
from selfsup.eval.result import Result, result
from selfsup.eval.tfidf import STRENGTHS, cosines, logistic, rare_words
from selfsup.eval.verdict import Gain, gains
from selfsup.fusion import Part, part_of
from selfsup.objective import Objective
from selfsup.predictors.ranker import Ranker
from selfsup.progress import Progress
from selfsup.run import Run
from selfsup.runtime import fastest_device

log = logging.getLogger("selfsup")
MOST = 5000  # pairs of passages that are scored
CHOICES = 1000  # passages whose continuation is chosen
OTHERS = 3  # among so many other passages of the same document
PAIRS = 20_000  # of the training text, from which words are counted
CHANCE = {"order": 1 / 2, "next": 1 / 2, "continue": 1 / (OTHERS + 1)}
WHERE = {
    "order": "in telling which of two neighboring passages comes first",
    "next": "in telling the next passage from a foreign one",
}
BATCH = 256  # pairs between two looks at the progress
Answers = dict[str, Tensor]
Score = Callable[[Sequence[str], Sequence[str]], Tensor]


def wins(scores: Tensor) -> Tensor:
    """(N,) in [0, 1]: whether the first of (N, K) scores is the highest; where n are equally high, each has 1 / n."""
    first = scores[:, :1]
    return (first >= scores).all(1).double() / (first == scores).sum(1).clamp(min=1)


def passages(reader: SegmentReader, rows: np.ndarray, second: bool = False) -> list[str]:
    """The text of the first or the second segment of some rows of a reader."""
    if not len(rows):  # transformers 5.17 decodes no texts to one empty text
        return []
    start, stop = (reader.middle, reader.stop) if second else (reader.start, reader.middle)
    stretches = zip(start[rows].tolist(), stop[rows].tolist(), strict=True)
    return reader.store.tokenizer.batch_decode([reader.store.read(*stretch).tolist() for stretch in stretches])


def strangers(reader: SegmentReader) -> tuple[np.ndarray, np.ndarray]:
    """(M,) rows of long documents, evenly spread, and (M, `OTHERS`) of the same document, drawn without repetition.

    As in training, the second segments of these neither overlap nor touch the row.
    """
    low, high, left, right = reader.bounds(np.arange(len(reader)))
    count = (high - low) - (right - left)
    rows = np.flatnonzero(count >= OTHERS)
    rows = rows[evenly(len(rows), CHOICES)]
    least = torch.from_numpy(count[rows][:, None] - np.arange(OTHERS))
    picks = Draw(0, -1, torch.from_numpy(rows)).integers("others", least, OTHERS)
    found = np.zeros((len(rows), OTHERS), np.int64)
    for number, row in enumerate(rows.tolist()):
        pool = [*range(low[row], left[row]), *range(right[row], high[row])]
        found[number] = [pool.pop(pick) for pick in picks[number].tolist()]
    return rows, found


@dataclass(frozen=True)
class Questions:
    """Passages of a text, and what may follow them.

    Attributes:
        first: N passages.
        second: the passage that follows each in its document.
        foreign: one that does not.
        start: M passages of long documents.
        choices: for each, what follows it, then `OTHERS` other passages of its document.
    """

    first: list[str]
    second: list[str]
    foreign: list[str]
    start: list[str]
    choices: list[list[str]]

    @classmethod
    def of(cls, reader: SegmentReader) -> Questions:
        """Evenly spread over a text; what is drawn is the same for all runs."""
        rows, (start, others) = evenly(len(reader), MOST), strangers(reader)
        foreign = reader.foreign(Draw(0, -1, torch.from_numpy(rows)), 0.0)
        return cls(
            passages(reader, rows), passages(reader, rows, True), passages(reader, foreign, True),
            passages(reader, start), [passages(reader, numbers, True) for numbers in (start, *others.T)],
        )  # fmt: skip

    def answers(self, score: Score) -> Answers:
        """`order`, `next` and, where documents are long enough, `continue`: how far each is right, ties in part.

        Args:
            score: of pairs of passages, more where the second rather follows the first.
        """
        true = score(self.first, self.second)
        found = {
            "order": wins(torch.stack([true, score(self.second, self.first)], 1)),
            "next": wins(torch.stack([true, score(self.first, self.foreign)], 1)),
        }
        if self.start:
            found["continue"] = wins(torch.stack([score(self.start, choice) for choice in self.choices], 1))
        return found


class Bags:
    """What the words of passages give away, their order aside.

    Which of two comes first: a linear score of the two bags, by logistic regression on pairs both ways round. Their sum
    is the same both ways and says nothing, so it is given their difference. What follows: the cosine of the two bags.
    Words are weighted by their rarity in the training text.
    """

    def __init__(self, first: list[str], second: list[str], others: Sequence[str]) -> None:
        """Learn from neighbors in the training text; the penalty is chosen on a tenth of the pairs.

        Args:
            first: passages.
            second: the one behind each.
            others: passages to come; words that only these have count as the rarest.
        """
        self.words = rare_words([*first, *second], others)
        difference = self._difference(first, second)
        # In blocks: neighboring pairs have sentences in common.
        held_out = np.arange(len(first)) // max(len(first) // 100, 1) % 10 == 9
        strength = STRENGTHS[0]
        if held_out.any():
            fits = [self._fit(difference[~held_out], strength) for strength in STRENGTHS]
            right = [(fit.decision_function(difference[held_out]) > 0).mean() for fit in fits]
            strength = STRENGTHS[int(np.argmax(right))]
        self.fit = self._fit(difference, strength)

    @classmethod
    def of(cls, reader: SegmentReader, questions: Questions) -> Bags:
        """Learned from up to `PAIRS` pairs of a reader, to answer some questions."""
        rows = evenly(len(reader), PAIRS)
        parts = (questions.first, questions.second, questions.foreign, questions.start, *questions.choices)
        others = [text for part in parts for text in part]
        return cls(passages(reader, rows), passages(reader, rows, True), others)

    def _difference(self, first: Sequence[str], second: Sequence[str]) -> csr_matrix:
        return self.words.transform(first) - self.words.transform(second)

    @staticmethod
    def _fit(difference: csr_matrix, strength: float) -> LogisticRegression:
        labels = np.repeat([1, 0], difference.shape[0])
        return logistic(vstack([difference, -difference]), labels, strength, intercept=False)

    def before(self, first: Sequence[str], second: Sequence[str]) -> Tensor:
        """(N,) how well each of the first passages comes before the second one at its place."""
        return torch.from_numpy(self.fit.decision_function(self._difference(first, second)))

    def overlap(self, first: Sequence[str], second: Sequence[str]) -> Tensor:
        """(N,) cosine of the words of two passages, the same both ways round."""
        return torch.from_numpy(cosines(self.words, first, second))


def _reader(run: Run, part: Part, store: TokenStore) -> SegmentReader:
    reader = part.reader(store)
    if not isinstance(reader, SegmentReader):
        raise UserError(f"{run.recipe.objective}: order is scored on segments, its reader has to be a SegmentReader")
    return reader


def ranker_of(objective: Objective) -> Ranker:
    """The predictor that scores pairs, where computing is fastest."""
    objective.to(fastest_device())
    return next(predictor for predictor in objective.predictors() if isinstance(predictor, Ranker))


def _shown(score: Score, who: str, progress: Progress) -> Score:
    """A score that shows how far it is."""

    def scores(first: Sequence[str], second: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(first), BATCH):
            progress.part(f"scoring passages: {who}", start, len(first))
            part = slice(start, start + BATCH)
            found.append(score(first[part], second[part]))
        return torch.cat(found)

    return scores


def evaluate_order(
    run: Run, train: TokenStore | None, held_out: TokenStore, name: str, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """Held-out passages by the run, its untrained network, and their words; one result a share of right answers.

    Nothing is hidden from the network. `order accuracy`: a passage and the one after it score higher so than swapped;
    `next accuracy`: than with a foreign one from anywhere; `continue accuracy`: what follows scores higher than three
    other passages of the document. The gain is in order, for a run that was only taught to know foreign ones in
    that, over the best of the others and chance. Without the training text (None) no words are known.

    Raises:
        UserError: there are too few passages.
    """
    now, then = (part_of(run.recipe, one, Ranker.kind) for one in (run.objective(), run.untrained()))
    questions = Questions.of(_reader(run, now, held_out))
    if not questions.start:
        log.info("%s: no document is long enough to choose a continuation from its passages", name)
    before = "start" if run.recipe.backbone.init else "untrained"
    answers: dict[str, Answers] = {}
    for who, objective in (("run", now.objective), (before, then.objective)):
        answers[who] = questions.answers(_shown(ranker_of(objective).scores, who, progress))
    if train is not None:
        progress.part("passages in order: raw", 0, 1)
        bags = Bags.of(_reader(run, now, train.cut(max(len(train) - PAST, 0), len(train))), questions)
        answers["raw"] = {**questions.answers(bags.overlap), "order": questions.answers(bags.before)["order"]}
    progress.part("passages in order", 1, 1)
    results = [
        {**result(run, "order", who, f"{asked} accuracy", float(right.mean()), CHANCE[asked], name, "held-out"),
         "layer": "head"}
        for who, of in answers.items() for asked, right in of.items()
    ]  # fmt: skip
    asked = "next" if vars(now.config).get("negatives") == "random" else "order"
    compared = {who: of[asked][None] for who, of in answers.items()}
    compared["chance"] = torch.full_like(compared["run"], CHANCE[asked])
    return results, gains({WHERE[asked]: compared})

"""What an encoder knows of a label set: every score it gets there, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from selfsup.eval.entrants import Entrant
from selfsup.eval.features import Features, Representation
from selfsup.eval.few_labels import Level
from selfsup.eval.fine_tune import tuned_score
from selfsup.eval.labelled import Labelled, spread_rows
from selfsup.eval.layers import best_layer, shows_layers
from selfsup.eval.ledger import Found, Ledger
from selfsup.eval.probes import Score, knn_score, line, linear_score
from selfsup.eval.result import Result, number
from selfsup.ops.spectrum import effective_rank
from selfsup.progress import Progress

ALL = Level(share=1.0)
RANKED = 8192  # samples that the effective rank is of


class Transfer:
    """One entrant on one label set.

    Attributes:
        rows: results so far.
        scores: of these, the answers to questions about labels.
    """

    def __init__(
        self, entrant: Entrant, labelled: Labelled, ledger: Ledger, tell: Callable[[str], None], progress: Progress
    ) -> None:
        """Nothing is computed yet.

        Args:
            entrant: who is scored.
            labelled: the label set.
            ledger: what is known already.
            tell: is given what is done next.
            progress: shows longer work.
        """
        self.entrant, self.labelled, self.ledger, self.tell, self.progress = entrant, labelled, ledger, tell, progress
        self.rows: list[Result] = []
        self.scores: list[Score] = []

    @cached_property
    def representation(self) -> Representation:
        """What the entrant sees in the samples: made when first needed, for all scores."""
        return self.entrant.make(self.labelled)

    def forget(self) -> None:
        """Let go of what the entrant sees, which is large; the results stay."""
        vars(self).pop("representation", None)

    def knn(self) -> None:
        """Nearest neighbors."""
        self._score("knn", ALL, lambda: knn_score("", self.representation, self.labelled))

    def linear(self, level: Level) -> None:
        """Linear probes."""
        seed = self.entrant.seed
        self._score("linear", level, lambda: linear_score("", self.representation, self.labelled, level, seed))

    def fine_tuned(self, level: Level) -> None:
        """The whole network trained with labels; of an untrained one that is from scratch."""
        tuned = self.entrant.tuned
        if tuned is not None:
            name, seed = self.entrant.name, self.entrant.seed
            self._score(
                "fine-tune", level,
                lambda: tuned_score(name, tuned(), self.labelled, level, seed, self.progress)[2],
            )  # fmt: skip

    def best_layer(self) -> None:
        """The layer that transfers best, where there are several."""
        encoder = self.entrant.encoder
        if encoder is None or not shows_layers(encoder, self.labelled.train):
            return

        def make() -> Found:
            assert isinstance(self.representation, Features)
            best = best_layer(encoder, self.labelled, self.representation, self.entrant.seed, "")
            row = {**line(self.labelled, best.score), "task": "layer", "layer": best.layer, "held_out": best.held_out}
            return row, best.score.right

        self._keep(["layer"], make)

    def rank(self) -> None:
        """The effective rank of the vectors of the part to fit on."""
        if self.entrant.encoder is None:
            return

        def make() -> Found:
            assert isinstance(self.representation, Features)
            features = self.representation.train
            rank = float(effective_rank(features[torch.from_numpy(spread_rows(len(features), RANKED))]))
            return number("rank", "", "effective rank", rank, 1.0, self.labelled.name, "train"), None

        self._keep(["rank"], make)

    def _score(self, task: str, level: Level, make: Callable[[], Score]) -> None:
        """Answers to a question about labels."""

        def found() -> Found:
            score = make()
            return line(self.labelled, score), score.right

        right = self._keep([task, level], found)
        assert right is not None
        self.scores.append(Score(task, self.entrant.name, level, right))

    def _keep(self, question: list[object], make: Callable[[], Found]) -> torch.Tensor | None:
        """Ask the ledger, and sign the result; a run may be called otherwise than when it was found."""
        entrant, labelled = self.entrant, self.labelled

        def signed(row: Result) -> Result:
            scratch = entrant.representation == "untrained" and row["task"] == "fine-tune"
            return {
                **row, "representation": "scratch" if scratch else entrant.representation, "run": entrant.name,
                "data": labelled.name, "step": entrant.run.step if entrant.run else 0, "seed": entrant.seed,
            }  # fmt: skip

        def make_signed() -> Found:
            row, right = make()
            return signed(row), right

        self.tell(f"{labelled.name}: {entrant.name}, {' '.join(map(str, question))}")
        depends_on = [entrant.identity, labelled.key, entrant.seed, *question]
        row, right = self.ledger.once(depends_on, make_signed)
        self.rows.append(signed(row))
        return right

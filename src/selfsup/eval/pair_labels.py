"""Whether vectors tell pairs of texts that belong together from those that do not: paraphrases, duplicates, answers.

`average precision` of the cosines, which needs no threshold; `accuracy` with the threshold that is best on other pairs.
"""

from __future__ import annotations

import logging

import numpy as np

from selfsup.errors import UserError
from selfsup.eval.bootstrap import average_precision_of, best_gain
from selfsup.eval.overlap import by_words
from selfsup.eval.result import Result, result
from selfsup.eval.text_encoders import Asked, encoded, similarity, text_encoders_of
from selfsup.eval.text_pairs import TextPairs, open_pairs
from selfsup.eval.verdict import Gain
from selfsup.eval.words_in_context import threshold
from selfsup.progress import Progress
from selfsup.run import Run

log = logging.getLogger("selfsup")
FIT = 5000  # pairs are enough to choose a threshold on


def labelled_pairs(asked: Asked, cache: str | None) -> tuple[TextPairs, TextPairs]:
    """Pairs to choose a threshold on, and pairs to score.

    A part `test` is scored, else `valid`; the threshold is chosen on `valid`, else on `train`, whose pairs a run may
    know. Where there is nothing else, half of the pairs by content serve to choose and half are scored.

    Raises:
        UserError: no pairs, or a part of one label only.
    """
    scored, *others = open_pairs(asked.data, asked.columns, cache, "label", 2)
    fit, test = (others[0], scored) if others else scored.halves()
    fit = fit.chosen(np.unique(np.linspace(0, len(fit) - 1, min(len(fit), FIT)).astype(np.int64)))
    for part, use in ((fit, "to choose a threshold on"), (test, "to score")):
        labels = np.unique(part.numbers)
        if len(labels) < 2:
            have = f", all with the label {labels[0]:g}" if len(labels) else ""
            raise UserError(f"{scored.name}: {len(part)} pairs {use}{have}; some of label 0 and some of 1 are needed")
    return fit, test


def evaluate_pairs(run: Run, asked: Asked, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """Pairs of texts with labels, by the run, its untrained network, and the words of both.

    Args:
        run: of a text objective.
        asked: `data` is pairs with a label, 0 or 1; see `open_pairs`.
        progress: shows the work.

    Raises:
        UserError: no pairs, one label only, or a run that does not read text.
    """
    encoders = text_encoders_of(run, asked.words, "pairs")
    fit, test = labelled_pairs(asked, run.recipe.data.cache)
    # Both parts together, so that rare words weigh the same in both and a threshold means the same.
    first, second = [*fit.first, *test.first], [*fit.second, *test.second]
    near = by_words(first, second)
    for who, encoder in encoders.items():
        vectors = encoded(encoder, [*first, *second], None, who, progress)
        near[who] = similarity(*vectors.split(len(first)))
    together = test.numbers == 1
    measures = {who: average_precision_of(of[len(fit) :], together) for who, of in near.items()}
    found, commonest = [], max(float(together.mean()), 1 - float(together.mean()))
    for who in (*encoders, *(who for who in near if who not in encoders)):
        seen, scored = np.split(near[who], [len(fit)])
        right = (scored > threshold(seen, fit.numbers == 1)) == together
        precision = measures[who](np.ones(len(test)))
        found.append(
            result(run, "pairs", who, "average precision", precision, float(together.mean()), test.name, test.split)
        )
        line = result(run, "pairs", who, "accuracy", float(right.mean()), commonest, test.name, test.split)
        found.append({**line, "labels": 1.0})
    progress.part("pairs", len(encoders), len(encoders))
    return found, [best_gain(measures, len(test), f"of average precision in {test.name}")]

"""Whether vectors of texts are as alike as people find the texts: semantic textual similarity (Cer et al. 2017).

Spearman's and Pearson's correlation of cosines with graded scores, beside the overlap of words and TF-IDF. And how the
vectors fill their space (Wang and Isola 2020), smaller being better: `alignment` of pairs that people find alike, 2 for
directions that have nothing to do with each other, and `uniformity` of all texts, -4 for directions all over a sphere
of many dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfsup.errors import UserError
from selfsup.eval.bootstrap import best_gain, rank_correlation_of
from selfsup.eval.overlap import by_words
from selfsup.eval.result import Result, result
from selfsup.eval.text_encoders import Asked, encoded, similarity, text_encoders_of
from selfsup.eval.text_pairs import TextPairs, open_pairs
from selfsup.eval.verdict import Gain
from selfsup.ops.spectrum import alignment, uniformity
from selfsup.progress import Progress
from selfsup.run import Run

ALIKE = 0.8  # of the highest score: pairs that are to lie together
MOST = 4096  # texts that are looked at for uniformity
APART, ALL_OVER = 2.0, -4.0  # alignment and uniformity of directions without any order


def _linear_correlation(values: np.ndarray, scores: np.ndarray) -> float:
    """Pearson's, with 0 where all are equal."""
    return float(np.corrcoef(values, scores)[0, 1]) if np.ptp(values) and np.ptp(scores) else 0.0


def _space(pairs: TextPairs, first: Tensor, second: Tensor) -> dict[str, tuple[float, float]]:
    """Alignment and uniformity with what they are without any order."""
    scores = pairs.numbers
    least = scores.max() - (1 - ALIKE) * (scores.max() - min(scores.min(), 0))
    alike = torch.from_numpy(scores >= least)
    place = {text: row for row, text in enumerate([*pairs.first, *pairs.second])}  # each text once
    rows = sorted(place.values())
    rows = [rows[k] for k in np.unique(np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.int64))]
    found = {"alignment": (float(alignment(first[alike], second[alike])), APART)}
    if len(rows) > 1:
        found["uniformity"] = (float(uniformity(torch.cat([first, second])[rows])), ALL_OVER)
    return found


def evaluate_sts(run: Run, asked: Asked, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """Pairs of texts with graded scores, by the run, its untrained network, and the words of both.

    Args:
        run: of a text objective.
        asked: `data` is pairs with a score; see `open_pairs`.
        progress: shows the work.

    Raises:
        UserError: no pairs, fewer than three, all of one score, or a run that does not read text.
    """
    encoders = text_encoders_of(run, asked.words, "sts")
    pairs = open_pairs(asked.data, asked.columns, run.recipe.data.cache, "score", 1)[0]
    if len(pairs) < 3 or not np.ptp(pairs.numbers):
        alike = f", all with the score {pairs.numbers[0]:g}" if not np.ptp(pairs.numbers) else ""
        raise UserError(f"{pairs.name}: {len(pairs)} pairs{alike}; give three or more, with different scores")
    alike, spaces = {}, {}
    for who, encoder in encoders.items():
        both = encoded(encoder, [*pairs.first, *pairs.second], None, who, progress)
        first, second = both.split(len(pairs))
        alike[who], spaces[who] = similarity(first, second), _space(pairs, first, second)
    alike |= by_words(pairs.first, pairs.second)
    measures = {who: rank_correlation_of(of, pairs.numbers) for who, of in alike.items()}
    every = np.ones(len(pairs))
    found = [
        result(run, "sts", who, metric, value, 0.0, pairs.name, pairs.split)
        for who, of in alike.items()
        for metric, value in (
            ("Spearman", measures[who](every)), ("Pearson", _linear_correlation(of, pairs.numbers)),
        )
    ]  # fmt: skip
    found += [
        result(run, "sts", who, metric, value, chance, pairs.name, pairs.split)
        for who in spaces if who in ("run", "untrained", "start")
        for metric, (value, chance) in spaces[who].items()
    ]  # fmt: skip
    progress.part("sts", len(encoders), len(encoders))
    return found, [best_gain(measures, len(pairs), f"of rank correlation in {pairs.name}")]

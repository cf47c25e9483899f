"""Intervals of differences by drawing the rows anew (Efron 1979), of measures that are no means over rows.

Values are sorted once: a measure takes how often each row was drawn, and is then linear in the number of rows. It is
what the same measure is of the rows that were drawn, repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from selfsup.eval.verdict import ERROR, Gain

ROUNDS = 1000
Measure = Callable[[np.ndarray], float]
"""(N,) how often each row counts -> the measure of these rows."""


def _ends(ordered: np.ndarray) -> np.ndarray:
    """The last place of each run of equal values in (N,) sorted ones."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From how often each row counts to its rank, equal values sharing the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ends = _ends(values[order])
    group = np.empty(len(values), np.int64)
    group[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))

    def of(counts: np.ndarray) -> np.ndarray:
        upto = np.cumsum(counts[order])[ends]  # rows up to the end of each group
        return ((upto + np.concatenate([[0], upto[:-1]]) + 1) / 2)[group]

    return of


def _correlation(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> float:
    """Pearson's of (N,) and (N,) ranks that count so often, with 0 where all of one side are equal."""
    share = counts / counts.sum()
    first, second = first - share @ first, second - share @ second
    spread = np.sqrt((share @ first**2) * (share @ second**2))
    return float(share @ (first * second) / spread) if spread > 1e-9 else 0.0  # of ranks that differ 1/4 and more


def rank_correlation_of(values: np.ndarray, scores: np.ndarray) -> Measure:
    """Spearman's correlation of (N,) values with (N,) scores, with 0 where all of one side are equal."""
    first, second = _ranks(values), _ranks(scores)
    return lambda counts: _correlation(first(counts), second(counts), counts)


def average_precision_of(values: np.ndarray, positive: np.ndarray) -> Measure:
    """Average precision of (N,) values that are to be higher where (N,) bool is true; equal values stand together."""
    order = np.argsort(-values, kind="stable")
    ends, hits = _ends(values[order]), positive[order].astype(np.float64)

    def of(counts: np.ndarray) -> float:
        drawn = counts[order]
        found, all_of = np.cumsum(drawn * hits)[ends], np.cumsum(drawn)[ends]
        precision = found / np.maximum(all_of, 1)
        return float(np.diff(found, prepend=0.0) @ precision / max(found[-1], 1))

    return of


def v_measure_of(clusters: np.ndarray, labels: np.ndarray) -> Measure:
    """V-measure of (N,) numbers of clusters with (N,) numbers of classes (Rosenberg and Hirschberg 2007).

    The harmonic mean of homogeneity and completeness: twice the mutual information over the sum of both entropies.
    """
    width = int(labels.max()) + 1
    cells, size = clusters * width + labels, (int(clusters.max()) + 1) * width

    def entropy(counts: np.ndarray) -> float:
        share = counts[counts > 0] / counts.sum()
        return float(-(share @ np.log(share)))

    def of(counts: np.ndarray) -> float:
        both = np.bincount(cells, counts, size).reshape(-1, width)
        apart = entropy(both.sum(0)) + entropy(both.sum(1))
        return 2 * (apart - entropy(both.ravel())) / apart if apart > 0 else 1.0

    return of


def mean_of(measures: list[Measure]) -> Measure:
    """The mean of several measures of the same rows."""
    return lambda counts: float(np.mean([measure(counts) for measure in measures]))


def bootstrap(run: Measure, other: Measure, rows: int, error: float) -> tuple[float, float]:
    """Difference of two measures, and half the width of its interval over the rows.

    Args:
        run: measure of the run.
        other: that of the alternative, on the same rows.
        rows: N, how many there are.
        error: probability that the interval misses.
    """
    generator = np.random.Generator(np.random.Philox(key=0))
    drawn = []
    for _ in range(ROUNDS):
        counts = np.bincount(generator.integers(0, rows, rows), minlength=rows).astype(np.float64)
        drawn.append(run(counts) - other(counts))
    low, high = np.quantile(drawn, [error / 2, 1 - error / 2])
    every = np.ones(rows)
    return run(every) - other(every), float(high - low) / 2


def best_gain(measures: Mapping[str, Measure], rows: int, where: str, error: float = ERROR) -> Gain:
    """What the run has over the best alternative in points of a measure, with an interval over the rows.

    Args:
        measures: by representation; `run` is among them.
        rows: N, how many there are.
        where: what was compared.
        error: probability that the interval misses, whichever alternative is the best.
    """
    others = {name: measure(np.ones(rows)) for name, measure in measures.items() if name != "run"}
    over = max(others, key=others.__getitem__)
    mean, half = bootstrap(measures["run"], measures[over], rows, error / len(others))
    return Gain(where, over, 100 * mean, 100 * half)

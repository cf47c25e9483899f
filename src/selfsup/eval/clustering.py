"""Whether texts of a class lie together: k-means on their vectors, and its clusters beside the classes."""

from __future__ import annotations

import logging
import math
import os
import warnings

import numpy as np
import torch.nn.functional as F
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from selfsup.data.part import label_column
from selfsup.data.source import GIVEN, open_source
from selfsup.errors import UserError
from selfsup.eval.bootstrap import Measure, bootstrap, mean_of, v_measure_of
from selfsup.eval.labelled import texts_of
from selfsup.eval.result import Result, result
from selfsup.eval.text_encoders import Asked, encoded, text_encoders_of
from selfsup.eval.tfidf import weighted_words
from selfsup.eval.verdict import ERROR, Gain
from selfsup.prepare import columns_of
from selfsup.progress import Progress
from selfsup.run import Run

log = logging.getLogger("selfsup")
SEEDS = 3
RESTARTS = 4  # of k-means for each seed
MOST = 10_000  # texts


def open_classes(asked: Asked, cache: str | None) -> tuple[list[str], np.ndarray, str, str]:
    """Texts, (N,) the number of each one's class, the name of the source, and the part: test, else valid, else train.

    Raises:
        UserError: no data, no labels, or one class only.
    """
    if asked.data is None:
        raise UserError("--data is missing: texts with classes, in the columns text and label")
    source = open_source(asked.data, columns_of(asked.columns), cache)
    name = os.fspath(asked.data) if isinstance(asked.data, str | os.PathLike) else GIVEN
    split = next(part for part in ("test", "valid", "train") if part in source.parts)
    part = source.parts[split]
    for column in ("text", "label"):
        if column not in part.table.column_names:
            have = ", ".join(part.table.column_names)
            hint = f"name one with --columns {column}=NAME"
            raise UserError(f"{name}: the {split} part has no column {column!r}, only: {have}; {hint}")
    texts, broken = texts_of(part)
    labels, _ = label_column(part.table)
    broken |= {row for row, text in enumerate(texts) if not text.strip()} | set(np.flatnonzero(labels < 0).tolist())
    if broken and len(broken) < len(texts):
        log.warning("%s: %d of %d texts left out: empty, or without a label (row %d%s)", name, len(broken), len(texts),
                    min(broken), ", ..." if len(broken) > 1 else "")  # fmt: skip
    rows = np.setdiff1d(np.arange(len(texts)), sorted(broken))
    if len(rows) > MOST:
        log.warning("%s: %d of %d texts are clustered, evenly spread", name, MOST, len(rows))
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST).astype(np.int64))]
    classes, labels = np.unique(labels[rows], return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{name}: {len(rows)} texts of {len(classes)} class; texts of two classes or more are needed")
    return [texts[row] for row in rows.tolist()], labels, name, split


def clusters(features: np.ndarray | csr_matrix, count: int, seed: int) -> np.ndarray:
    """(N,) the cluster of each row of (N, D) features, by k-means."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than classes: so it is
        return KMeans(count, n_init=RESTARTS, random_state=seed).fit_predict(features)


def _gain(measures: dict[str, list[Measure]], rows: int, where: str) -> Gain:
    """What the run has over the best alternative: uncertain are the texts, and the starts of k-means."""
    every = np.ones(rows)
    means = {who: mean_of(of) for who, of in measures.items()}
    others = {who: mean(every) for who, mean in means.items() if who != "run"}
    over = max(others, key=others.__getitem__)
    error = ERROR / len(others)
    mean, half = bootstrap(means["run"], means[over], rows, error)
    # The starts of two who are compared have nothing to do with each other: their variances add.
    apart = sum(np.var([measure(every) for measure in measures[who]], ddof=1) for who in ("run", over))
    spread = stats.t.ppf(1 - error / 2, 2 * (SEEDS - 1)) * math.sqrt(apart / SEEDS)
    return Gain(where, over, 100 * mean, 100 * math.hypot(half, float(spread)))


def evaluate_clustering(run: Run, asked: Asked, progress: Progress) -> tuple[list[Result], list[Gain]]:
    """V-measure of k-means on vectors of unit length, as many clusters as classes, the mean over three seeds.

    Args:
        run: of a text objective.
        asked: `data` is texts with labels.
        progress: shows the work.

    Raises:
        UserError: no labelled texts, one class only, or a run that does not read text.
    """
    encoders = text_encoders_of(run, asked.words, "clustering")
    texts, labels, name, split = open_classes(asked, run.recipe.data.cache)
    count, measures = int(labels.max()) + 1, {}
    for who in (*encoders, "tf-idf"):
        if who == "tf-idf":
            features = weighted_words(1).fit_transform(texts)
        else:
            features = F.normalize(encoded(encoders[who], texts, None, who, progress), dim=1).numpy()
        progress.part(f"{who}: clusters", 0, SEEDS)
        measures[who] = [v_measure_of(clusters(features, count, seed), labels) for seed in range(SEEDS)]
    every, chance = np.ones(len(texts)), _by_chance(labels, count)
    found = [
        result(run, "clustering", who, "V-measure", mean_of(of)(every), chance, name, split)
        for who, of in measures.items()
    ]
    progress.part("clustering", len(encoders), len(encoders))
    return found, [_gain(measures, len(texts), f"of V-measure in {name}")]


def _by_chance(labels: np.ndarray, count: int) -> float:
    """V-measure of clusters drawn by chance, which is above 0 for few texts in many classes."""
    generator = np.random.Generator(np.random.Philox(key=0))
    drawn = [v_measure_of(generator.integers(0, count, len(labels)), labels) for _ in range(SEEDS)]
    return mean_of(drawn)(np.ones(len(labels)))

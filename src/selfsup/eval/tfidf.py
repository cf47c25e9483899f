"""What counting words is worth: the raw input that text encoders have to beat."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from selfsup.eval.features import Representation
from selfsup.eval.labelled import Labelled
from selfsup.eval.linear import held_out_rows

K, TEMPERATURE = 20, 0.07  # as `knn_predict`
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # of the fit, inverse to the penalty
BLOCK = 1024


def weighted_words(longest: int) -> TfidfVectorizer:
    """What turns texts into counts of words, and of runs of up to `longest` words, weighted by rarity; of length 1."""
    # Any run of letters is a word, also one letter long: Chinese and code have those.
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, longest), token_pattern=r"(?u)\w+|[^\w\s]")


def rare_words(past: Sequence[str], others: Sequence[str]) -> TfidfVectorizer:
    """What turns texts into counts of words weighted by their rarity in past texts; words of others only are rarest."""
    found = weighted_words(1)
    split = found.build_analyzer()
    words = {word for text in (*past, *others) for word in split(text)}
    return found.set_params(vocabulary=sorted(words)).fit(past)


def cosines(words: TfidfVectorizer, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """(N,) cosine of the weighted words of two texts each."""
    return np.asarray(words.transform(first).multiply(words.transform(second)).sum(1))[:, 0]


def logistic(x: csr_matrix, labels: np.ndarray, strength: float, intercept: bool = True) -> LogisticRegression:
    """Logistic regression on sparse rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps are enough to score
        return LogisticRegression(C=strength, fit_intercept=intercept).fit(x, labels)


class TfIdf(Representation):
    """Words and pairs of words weighted by rarity; logistic regression and kNN on them."""

    def __init__(self, labelled: Labelled) -> None:
        """Count the words of the part to fit on; its labels are not looked at."""
        assert isinstance(labelled.train, list) and isinstance(labelled.test, list)
        vectorizer = weighted_words(2)
        self.train: csr_matrix = vectorizer.fit_transform(labelled.train)  # (N, V) sparse, rows of unit length
        self.test: csr_matrix = vectorizer.transform(labelled.test)
        self.labels, self.classes = labelled.labels, len(labelled.classes)
        self.strength = 1.0

    def knn(self) -> Tensor:
        """See `Representation`."""
        found = []
        for start in range(0, self.test.shape[0], BLOCK):
            cosine = torch.from_numpy((self.test[start : start + BLOCK] @ self.train.T).toarray())  # (B, N)
            nearest = cosine.topk(min(K, cosine.shape[1]), dim=1)
            weight = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
            votes = weight.new_zeros(len(weight), self.classes)
            found.append(votes.scatter_add_(1, self.labels[nearest.indices], weight).argmax(1))
        return torch.cat(found)

    def choose(self, rows: Tensor, seed: int) -> None:
        """See `Representation`; the penalty is chosen as the dense probe chooses its rate, on a held-out tenth."""
        x, labels = self.train[rows.numpy()], self.labels[rows].numpy()
        held_out = held_out_rows(self.labels[rows], torch.Generator().manual_seed(seed)).numpy()
        if len(np.unique(labels[~held_out])) > 1:
            fits = [logistic(x[~held_out], labels[~held_out], strength) for strength in STRENGTHS]
            scores = [fit.score(x[held_out], labels[held_out]) for fit in fits]
            self.strength = STRENGTHS[int(np.argmax(scores))]

    def linear(self, rows: Tensor, seed: int) -> Tensor:
        """See `Representation`."""
        fit = logistic(self.train[rows.numpy()], self.labels[rows].numpy(), self.strength)
        return torch.from_numpy(fit.predict(self.test)).long()

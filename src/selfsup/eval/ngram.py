"""Count-based language model: interpolated modified Kneser-Ney, the baseline that a trained model has to beat.

Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3. Each order is a
sorted array of grams. A gram is the number (index of its first m - 1 tokens among the grams of order m - 1) x
vocabulary + its last token: exact, without hashing, and grams with one context stand next to each other. The
probability of every seen gram is computed once, so a score is one lookup and a sum of backoffs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfsup.errors import UserError

BLOCK = 1 << 20


@dataclass(frozen=True)
class _Order:
    """All grams of one order m; the context of a gram is its first m - 1 tokens.

    Attributes:
        gram: (G,) int64, sorted.
        probability: (G,) float32, interpolated probability of the last token given the context.
        backoff: (contexts,) float32, the mass that a context leaves to the lower order; 1 where nothing followed it.
        likeliest: (contexts,) int64, the most probable token among those that followed; -1 where nothing did.
    """

    gram: NDArray[np.int64]
    probability: NDArray[np.float32]
    backoff: NDArray[np.float32]
    likeliest: NDArray[np.int64]

    def find(self, gram: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of each gram, -1 where it was never seen."""
        at = np.minimum(np.searchsorted(self.gram, gram), len(self.gram) - 1)
        return np.where(self.gram[at] == gram, at, -1)


def discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is taken from a count of 0, 1, 2, 3 or more: (4,) (Chen and Goodman 1998, equation 26).

    Where the counts of counts do not determine one (tiny or saturated data) it is 0.5, and it stays within
    [0.05, count - 0.05], so that seen and unseen tokens keep some probability.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=5).astype(np.float64)
    taken = np.array([0.0, 0.5, 0.5, 0.5])
    if n[1] and n[2]:
        y = n[1] / (n[1] + 2 * n[2])
        for k in (1, 2, 3):
            if n[k] and n[k + 1]:
                taken[k] = np.clip(k - (k + 1) * y * n[k + 1] / n[k], 0.05, k - 0.05)
    return taken


def _smooth(
    gram: NDArray[np.int64],
    counts: NDArray[np.int64],
    contexts: int,
    lower: NDArray[np.float64],
    vocabulary: int,
) -> tuple[_Order, NDArray[np.float64]]:
    """Interpolate one order with the one below.

    Args:
        gram: (G,) sorted grams.
        counts: (G,) how often each was seen, or in how many left contexts.
        contexts: how many contexts there are.
        lower: (G,) probability of each gram's last token by the lower order.
        vocabulary: number of tokens.

    Returns:
        The order and the probabilities of its grams in full precision (G,).
    """
    context, token = gram // vocabulary, gram % vocabulary
    taken = discounts(counts)[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=contexts)
    mass = np.bincount(context, weights=taken, minlength=contexts)
    backoff = np.divide(mass, total, out=np.ones(contexts), where=total > 0)
    probability = (counts - taken) / total[context] + backoff[context] * lower
    rising = np.lexsort((-token, probability, context))  # of equal ones the smallest token stands last
    last = np.flatnonzero(np.append(np.diff(context) > 0, True))
    likeliest = np.full(contexts, -1)
    likeliest[context[last]] = token[rising[last]]
    return _Order(gram, probability.astype(np.float32), backoff.astype(np.float32), likeliest), probability


def _checked(tokens: NDArray, vocabulary: int) -> NDArray[np.int64]:
    """The tokens as int64, all within the vocabulary."""
    text = np.asarray(tokens).astype(np.int64)
    if len(text) and not 0 <= text.min() <= text.max() < vocabulary:
        raise UserError(f"tokens run from {text.min()} to {text.max()}: allowed are 0 to {vocabulary - 1}")
    return text


class NGram:
    """An n-gram language model; `order` 1 is the unigram model by the same code."""

    def __init__(self, orders: list[_Order], vocabulary: int) -> None:
        self._orders, self.vocabulary = orders, vocabulary

    @property
    def order(self) -> int:
        """Length of the longest gram."""
        return len(self._orders)

    @staticmethod
    def fit(tokens: NDArray, vocabulary: int, order: int = 5, limit: int = 20_000_000) -> NGram:
        """Count and smooth.

        The highest order has raw counts, lower ones the number of different tokens to the left of a gram (the very
        first gram of the text has none and counts 1). Below order 1 stands the uniform distribution.

        Args:
            tokens: (n,) integers in [0, vocabulary), an array or memory map.
            vocabulary: number of tokens.
            order: length of the longest gram; cut to n.
            limit: only the last `limit` tokens are used; memory is about 100 bytes a token at order 5.

        Raises:
            UserError: no tokens, a token outside of the vocabulary, order below 1, limit below order.
        """
        if order < 1 or limit < order:
            raise UserError(f"n-gram order {order} with a limit of {limit:,} tokens: order must be from 1 to limit")
        text = _checked(tokens[-limit:], vocabulary)
        if len(text) == 0:
            raise UserError("an n-gram model was given no tokens: give at least one")
        order = min(order, len(text))
        grams: list[NDArray[np.int64]] = []
        suffixes: list[NDArray[np.int64]] = []  # of each gram, the index of its last m tokens in the order below
        starting = np.zeros(len(text) + 1, np.int64)  # index of the gram that starts at each token, here the empty one
        for m in range(order):
            gram, first, longer = np.unique(
                starting[:-1] * vocabulary + text[m:], return_index=True, return_inverse=True
            )
            grams.append(gram)
            suffixes.append(starting[first + 1])
            starting = longer

        orders: list[_Order] = []
        probability = np.array([1 / vocabulary])
        for m, gram in enumerate(grams):
            counts = np.bincount(starting if m + 1 == order else suffixes[m + 1], minlength=len(gram))
            contexts = len(probability)
            smoothed, probability = _smooth(gram, np.maximum(counts, 1), contexts, probability[suffixes[m]], vocabulary)
            orders.append(smoothed)
        return NGram(orders, vocabulary)

    def score(self, tokens: NDArray, window: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Score held-out tokens as a causal model on packed windows does: no context from before the window.

        Window i is tokens[i * window : i * window + window + 1]; its first token is only context, its other tokens
        are scored from what stands before them in this window. The last window may be shorter.

        `correct` says whether the most probable of the tokens seen after the longest known context is the target; a
        token never seen there may be more probable in rare cases.

        Args:
            tokens: (n,) integers in [0, vocabulary).
            window: number of scored tokens in a window.

        Returns:
            Negative log-probabilities in nats (n - 1,), of tokens[1:], and `correct` (n - 1,).

        Raises:
            UserError: window below 1, or a token outside of the vocabulary.
        """
        if window < 1:
            raise UserError(f"window {window} is not allowed: give 1 or more")
        targets = max(len(tokens) - 1, 0)
        nats, correct = np.zeros(targets), np.zeros(targets, bool)
        step = max(BLOCK // window, 1) * window  # whole windows at a time
        for start in range(0, targets, step):
            text = _checked(tokens[start : start + step + 1], self.vocabulary)
            part = slice(start, start + len(text) - 1)
            nats[part], correct[part] = self._score(text, np.arange(len(text) - 1) % window + 1)
        return nats, correct

    def score_rows(self, tokens: NDArray, length: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Score all tokens of rows, each from those before it in its row, the first from nothing.

        Args:
            tokens: (N, L) integers in [0, vocabulary).
            length: (N,) how many of a row count.

        Returns:
            Negative log-probabilities in nats (N, L), zero beyond a row's length, and `correct` as of `score` (N, L).

        Raises:
            UserError: a token outside of the vocabulary.
        """
        width = tokens.shape[1]
        inside = np.arange(width) < length[:, None]
        nats, correct = np.zeros(tokens.shape), np.zeros(tokens.shape, bool)
        step = max(BLOCK // max(width, 1), 1)
        for start in range(0, len(tokens), step):
            part = slice(start, start + step)
            row, place = np.nonzero(inside[part])
            # Some token has to stand before the first one; it is not looked at.
            text = np.concatenate([[0], _checked(tokens[part][row, place], self.vocabulary)])
            nats[part][row, place], correct[part][row, place] = self._score(text, place)
        return nats, correct

    def _score(
        self, text: NDArray[np.int64], before: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Score text[1:], (n,) int64, each from at most so many tokens `before` it, (n - 1,)."""
        target = text[1:]
        logs = np.full(len(target), -np.log(self.vocabulary))
        guess = np.zeros(len(target), np.int64)
        ending = np.zeros(len(text), np.int64)  # index of the gram of order m - 1 that ends at each token, -1: unseen
        for m, one in enumerate(self._orders):
            context = ending[:-1]
            known = (context >= 0) & (before >= m)
            gram = np.where(context >= 0, one.find(context * self.vocabulary + target), -1)
            seen, unseen = known & (gram >= 0), known & (gram < 0)
            logs[seen] = np.log(one.probability[gram[seen]].astype(np.float64))
            logs[unseen] += np.log(one.backoff[context[unseen]].astype(np.float64))
            # A context that ends the training text was seen but never followed: the shorter one's guess stands.
            guessed = np.where(known, one.likeliest[context], -1)
            guess = np.where(guessed >= 0, guessed, guess)
            first = one.find(text[:1])[0] if m == 0 else -1
            ending = np.concatenate([[first], gram])
        return -logs, guess == target

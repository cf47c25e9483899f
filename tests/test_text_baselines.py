"""The n-gram model against dictionaries, and xz against its own command-line meaning."""

from __future__ import annotations

import lzma
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from selfsup.errors import UserError
from selfsup.eval.compression import xz_bits_per_byte
from selfsup.eval.ngram import NGram, discounts

VOCABULARY = 7


def text(n, seed):
    """Tokens with structure: each depends on the two before it. Token 6 never occurs."""
    rng, tokens = np.random.default_rng(seed), [0, 1]
    for _ in range(n - 2):
        likely = (tokens[-1] * 2 + tokens[-2]) % 6
        tokens.append(int(likely if rng.random() < 0.7 else rng.integers(6)))
    return np.array(tokens, dtype=np.uint16)


class Dictionaries:
    """Interpolated modified Kneser-Ney, one probability at a time."""

    def __init__(self, tokens, order):
        tokens = [int(token) for token in tokens]
        spans = [[tuple(tokens[i : i + m]) for i in range(len(tokens) - m + 1)] for m in range(1, order + 1)]
        self.counts = [Counter(gram[1:] for gram in set(longer)) for longer in spans[1:]] + [Counter(spans[-1])]
        for counts, grams in zip(self.counts, spans, strict=True):
            counts[grams[0]] = max(counts[grams[0]], 1)
        self.following = [defaultdict(dict) for _ in spans]
        for following, counts in zip(self.following, self.counts, strict=True):
            for gram, count in counts.items():
                following[gram[:-1]][gram[-1]] = count
        self.discounts = [discounts(np.array(list(counts.values()))) for counts in self.counts]

    def probability(self, context, token):
        lower = self.probability(context[1:], token) if context else 1 / VOCABULARY
        counts, taken = self.following[len(context)].get(context), self.discounts[len(context)]
        if counts is None:
            return lower
        left = sum(taken[min(count, 3)] for count in counts.values())
        own = counts[token] - taken[min(counts[token], 3)] if token in counts else 0.0
        return (own + left * lower) / sum(counts.values())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("window", [1, 2, 5, 64, 1000])
def test_ngram_equals_dictionaries(order, window):
    train, held_out = text(400, 0), np.append(text(150, 1), [6, 3, 6, 6])
    reference = Dictionaries(train, order)
    expected = []
    for i in range(1, len(held_out)):
        start = (i - 1) // window * window  # the window's first token is context only
        context = tuple(int(token) for token in held_out[max(start, i - order + 1) : i])
        expected.append(-math.log(reference.probability(context, int(held_out[i]))))
    nats, correct = NGram.fit(train, VOCABULARY, order).score(held_out, window)
    assert nats.dtype == np.float64 and correct.dtype == bool and len(nats) == len(correct) == len(held_out) - 1
    np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one(order):
    """Over the vocabulary, after contexts seen, unseen, and seen only at the very end of the text."""
    train = np.append(text(300, 0), [6])
    model = NGram.fit(train, VOCABULARY, order)
    contexts = [train[-4:], train[:4], *np.random.default_rng(0).integers(0, VOCABULARY, (40, 4))]
    for context in contexts:
        candidates = [np.append(context, token) for token in range(VOCABULARY)]
        nats = [model.score(candidate, 10)[0][-1] for candidate in candidates]
        assert math.isclose(sum(np.exp(-np.array(nats))), 1, rel_tol=1e-6)
        assert max(nats) < 20


def test_unigram_counts():
    """Order 1 is counting, but for what the discounts move to the uniform part."""
    tokens = np.array([0] * 50 + [1] * 30 + [2] * 20)
    model = NGram.fit(tokens, 5, order=1)
    nats, correct = model.score(np.array([0, 0, 1, 2, 3, 4]), window=5)
    # No token occurs once, so a half is taken from each of three and spread over five.
    expected = (np.array([50, 30, 20, 0, 0]) - [0.5, 0.5, 0.5, 0, 0] + 1.5 / 5) / 100
    np.testing.assert_allclose(np.exp(-nats), expected, rtol=1e-6)
    assert correct.tolist() == [True, False, False, False, False]


def test_discounts_follow_the_paper():
    """Counts of counts 40, 15, 8, 5: Chen and Goodman 1998, equation 26, by hand."""
    counts = np.repeat([1, 2, 3, 4, 9], [40, 15, 8, 5, 11])
    y = 40 / 70
    expected = [0, 1 - 2 * y * 15 / 40, 2 - 3 * y * 8 / 15, 3 - 4 * y * 5 / 8]
    np.testing.assert_allclose(discounts(np.array(counts)), expected)


def test_correct_is_the_most_probable_continuation():
    """After (0, 1) comes 2 twice and 3 once; after an unknown context the shorter one decides."""
    train = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 5, 1, 3, 4, 1, 3])
    model = NGram.fit(train, VOCABULARY, order=3)
    assert model.score(np.array([0, 1, 2]), 2)[1].tolist() == [True, True]
    assert model.score(np.array([0, 1, 3]), 2)[1].tolist() == [True, False]
    assert model.score(np.array([6, 1, 3]), 2)[1].tolist()[1]  # 1 was followed by 3 after three different tokens


def test_context_helps_and_windows_are_packed():
    train, held_out = text(5000, 0), text(1001, 1)
    model = NGram.fit(train, VOCABULARY)
    whole = model.score(held_out, 1000)[0].mean()
    assert model.order == 5
    assert whole < model.score(held_out, 2)[0].mean() < NGram.fit(train, VOCABULARY, 1).score(held_out, 1000)[0].mean()
    # The entropy of the process: after any two tokens one has 0.75, five have 0.05.
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.05)
    assert 0.9 * entropy < NGram.fit(train, VOCABULARY, 3).score(held_out, 1000)[0].mean() < 1.1 * entropy
    one_by_one = [model.score(held_out[start : start + 11], 10)[0] for start in range(0, 1000, 10)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), model.score(held_out, 10)[0])


def test_blocks_change_nothing(monkeypatch):
    model, held_out = NGram.fit(text(500, 0), VOCABULARY), text(300, 1)
    nats, correct = model.score(held_out, 7)
    monkeypatch.setattr("selfsup.eval.ngram.BLOCK", 20)
    again = model.score(held_out, 7)
    assert np.array_equal(nats, again[0]) and np.array_equal(correct, again[1])


def test_large_vocabulary_memory_map_and_limit(tmp_path):
    """Tokens near 2^32 pack without overflow; only the last `limit` tokens count."""
    path, big = tmp_path / "tokens.bin", 2**32
    tokens = text(300, 0).astype(np.uint32) + np.uint32(big - 10)
    np.concatenate([np.zeros(50, np.uint32), tokens]).tofile(path)
    mapped = np.memmap(path, dtype=np.uint32, mode="r")
    limited, direct = NGram.fit(mapped, big, limit=300), NGram.fit(tokens, big)
    assert np.array_equal(limited.score(tokens, 16)[0], direct.score(tokens, 16)[0])
    small = NGram.fit(tokens - (big - 10), big).score(tokens - (big - 10), 16)[0]
    np.testing.assert_array_equal(direct.score(tokens, 16)[0], small)


def test_tiny_texts():
    assert NGram.fit(np.array([3]), VOCABULARY).order == 1
    nats, correct = NGram.fit(np.array([3, 4]), VOCABULARY).score(np.array([3]), 4)
    assert len(nats) == len(correct) == 0


@pytest.mark.parametrize("mistake", [{"order": 0}, {"limit": 2}, {"tokens": []}, {"tokens": [7]}])
def test_ngram_refuses(mistake):
    tokens = np.array(mistake.get("tokens", [1, 2, 3, 4]), dtype=int)
    with pytest.raises(UserError):
        NGram.fit(tokens, VOCABULARY, mistake.get("order", 5), mistake.get("limit", 100))


def test_score_refuses():
    model = NGram.fit(text(50, 0), VOCABULARY)
    with pytest.raises(UserError, match="window"):
        model.score(text(9, 0), 0)
    with pytest.raises(UserError, match="allowed are 0 to 6"):
        model.score(np.array([0, 7]), 4)


def test_xz_bits():
    """What was there before costs nearly nothing, noise costs its 8 bits, and text lies in between."""
    rng = random.Random(0)
    words = [bytes(rng.choices(b"abcdefghij", k=rng.randint(2, 7))) for _ in range(300)]
    prose = b" ".join(rng.choices(words, k=20_000))
    train, held_out = prose[:80_000], prose[80_000:90_000]
    noise = rng.randbytes(10_000)
    assert xz_bits_per_byte(train[5_000:15_000], train) < 0.1
    assert 7.9 < xz_bits_per_byte(noise, train) < 8.2
    assert 1 < xz_bits_per_byte(held_out, train) < xz_bits_per_byte(held_out, b"") < 5
    alone = len(lzma.compress(held_out, preset=9)) * 8 / len(held_out)  # container and checksum included
    assert alone - 0.1 < xz_bits_per_byte(held_out, b"") < alone


def test_xz_reaches_back_to_the_limit_only(monkeypatch):
    """Text beyond the limit is not used; all before it is within the dictionary.

    A copy inside noise costs about a bit a byte: the noise around it no longer goes uncompressed.
    """
    noise = random.Random(0).randbytes(30_000)
    monkeypatch.setattr("selfsup.eval.compression.TRAIN_LIMIT", 20_000)
    assert xz_bits_per_byte(noise[10_000:12_000], noise) < 1.5
    assert xz_bits_per_byte(noise[:2_000], noise) > 7.9


def test_xz_refuses_nothing():
    with pytest.raises(UserError):
        xz_bits_per_byte(b"", b"abc")

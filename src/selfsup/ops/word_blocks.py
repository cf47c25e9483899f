"""The update of word vectors in closed form, eight neighboring words at a time.

Mikolov et al. 2013: the vector of a word has to tell the words around it (skip-gram), or the mean of theirs has to
tell it (CBOW), from words drawn at random. For a question h about a word o, with S words of noise n that stand for K,

    loss = -log sigma(h . u_o) - K / S sum_n log sigma(-h . u_n).

The words of a block share their noise (Ji et al. 2016, "Parallelizing Word2Vec in Shared and Distributed Memory"), so
the work is small matrix products, in which each of eight words has a lane of a vector register. All that a block reads
is copied, and all its gradients are known, before a row changes: it moves by the exact gradient of the sum of its
losses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from selfsup.ops.compiled import compiled
from selfsup.ops.lanes import LANES, column, load, madd, prefetch, store, zero
from selfsup.ops.logistic import judge

BLOCK = LANES  # words that share their noise and change together
LINE = 16  # numbers that the memory gives at once


@compiled
def _ask(asked: NDArray, turned: NDArray, told: NDArray, count: int, x: NDArray) -> None:
    """x[k, c] = u_k . h_c, (K, 8), for `count` rows u, eight at a time; `turned` is room for (W, 8)."""
    for d in range(asked.shape[1]):
        store(turned, d, 0, column(asked, d))
    for k in range(0, count, 8):
        x0 = x1 = x2 = x3 = x4 = x5 = x6 = x7 = zero()
        for d in range(asked.shape[1]):
            h = load(turned, d, 0)
            x0 = madd(told[k, d], h, x0)
            x1 = madd(told[k + 1, d], h, x1)
            x2 = madd(told[k + 2, d], h, x2)
            x3 = madd(told[k + 3, d], h, x3)
            x4 = madd(told[k + 4, d], h, x4)
            x5 = madd(told[k + 5, d], h, x5)
            x6 = madd(told[k + 6, d], h, x6)
            x7 = madd(told[k + 7, d], h, x7)
        store(x, k, 0, x0)
        store(x, k + 1, 0, x1)
        store(x, k + 2, 0, x2)
        store(x, k + 3, 0, x3)
        store(x, k + 4, 0, x4)
        store(x, k + 5, 0, x5)
        store(x, k + 6, 0, x6)
        store(x, k + 7, 0, x7)


@compiled
def _pull(g: NDArray, told: NDArray, count: int, gradient: NDArray) -> None:
    """gradient[c] = sum over k of g[k, c] u_k, for `count` rows u."""
    for d in range(0, told.shape[1], LANES):
        h0 = h1 = h2 = h3 = h4 = h5 = h6 = h7 = zero()
        for k in range(count):
            u = load(told, k, d)
            h0 = madd(g[k, 0], u, h0)
            h1 = madd(g[k, 1], u, h1)
            h2 = madd(g[k, 2], u, h2)
            h3 = madd(g[k, 3], u, h3)
            h4 = madd(g[k, 4], u, h4)
            h5 = madd(g[k, 5], u, h5)
            h6 = madd(g[k, 6], u, h6)
            h7 = madd(g[k, 7], u, h7)
        store(gradient, 0, d, h0)
        store(gradient, 1, d, h1)
        store(gradient, 2, d, h2)
        store(gradient, 3, d, h3)
        store(gradient, 4, d, h4)
        store(gradient, 5, d, h5)
        store(gradient, 6, d, h6)
        store(gradient, 7, d, h7)


@compiled
def _push(g: NDArray, asked: NDArray, table: NDArray, rows: NDArray, count: int, rate: float, rest: NDArray) -> None:
    """u_k -= rate times the sum over c of g[k, c] h_c, for `count` rows u of a table; `rest` is room for (1, 8)."""
    width, step = table.shape[1], np.float32(-rate)
    whole = width // LANES * LANES
    for k in range(count):
        row = rows[k]
        g0, g1, g2, g3 = step * g[k, 0], step * g[k, 1], step * g[k, 2], step * g[k, 3]
        g4, g5, g6, g7 = step * g[k, 4], step * g[k, 5], step * g[k, 6], step * g[k, 7]
        for d in range(0, asked.shape[1], LANES):
            even = madd(g4, load(asked, 4, d), madd(g2, load(asked, 2, d), madd(g0, load(asked, 0, d), zero())))
            odd = madd(g5, load(asked, 5, d), madd(g3, load(asked, 3, d), madd(g1, load(asked, 1, d), zero())))
            even, odd = madd(g6, load(asked, 6, d), even), madd(g7, load(asked, 7, d), odd)
            both = madd(np.float32(1), even, odd)
            if d < whole:
                store(table, row, d, madd(np.float32(1), both, load(table, row, d)))
            else:
                store(rest, 0, 0, both)
        for d in range(whole, width):
            table[row, d] += rest[0, d - whole]


@compiled
def _read(table: NDArray, rows: NDArray, count: int, found: NDArray) -> None:
    """Copy `count` rows of a table."""
    for place in range(count):
        row = rows[place]
        for d in range(table.shape[1]):
            found[place, d] = table[row, d]


@compiled
def _prefetch(inputs: NDArray, outputs: NDArray, words: NDArray, noise: NDArray, block: int) -> None:
    """Ask the memory for what a block will read, if there is one of this number, while another is being computed."""
    start = block * BLOCK
    if start >= len(words):
        return
    for d in range(0, inputs.shape[1], LINE):
        for word in noise[block]:
            prefetch(outputs, word, d)
        for word in words[start : start + 2 * BLOCK]:  # more than its own: their contexts
            prefetch(inputs, word, d)
            prefetch(outputs, word, d)


@compiled
def _gather(table: NDArray, parts: NDArray, offsets: NDArray, words: NDArray, found: NDArray) -> None:
    """Vectors of words: the sum of each one's rows in the table over the root of their number."""
    width = table.shape[1]
    if len(parts) == len(offsets) - 1:  # every word has its own row and no other
        _read(table, words, len(words), found)
        return
    for place in range(len(words)):
        start, stop = offsets[words[place]], offsets[words[place] + 1]
        row, scale = parts[start], np.float32(1 / math.sqrt(stop - start))
        for d in range(width):
            found[place, d] = scale * table[row, d]
        for part in range(start + 1, stop):
            row = parts[part]
            for d in range(width):
                found[place, d] += scale * table[row, d]


@compiled
def _scatter(
    table: NDArray, parts: NDArray, offsets: NDArray, words: NDArray, gradient: NDArray, rate: float
) -> None:  # fmt: skip
    """One step of gradient descent on the rows that `_gather` read."""
    width = table.shape[1]
    for place in range(len(words)):
        start, stop = offsets[words[place]], offsets[words[place] + 1]
        scale = np.float32(rate / math.sqrt(stop - start))
        for part in range(start, stop):
            row = parts[part]
            for d in range(width):
                table[row, d] -= scale * gradient[place, d]


@compiled
def _mix(span: NDArray, own: int, left: int, mix: NDArray) -> None:
    """CBOW: the (N, 8) weights with which the words around make what asks for each word, the mean of its context."""
    mix[:] = 0
    for c in range(len(span)):
        first, last = span[c, 0] - left, span[c, 1] - left
        for place in range(first, last):
            mix[place, c] = np.float32(1 / max(last - first - 1, 1))
        mix[own + c, c] = 0


@compiled
def _room(rows: int, columns: int) -> NDArray:
    """A table of zeros."""
    return np.zeros((rows, columns), np.float32)


@compiled
def _weigh(
    span: NDArray, own: int, left: int, first: int, used: int, share: float, cbow: bool, scale: NDArray
) -> int:  # fmt: skip
    """Fill the (K, 8) weights that `judge` takes, noise from row `first` to `used`; returns how many words are told."""
    count = 0
    scale[:] = 0
    for c in range(len(span)):
        told = span[c, 1] - span[c, 0] - 1
        if not told:  # alone in its sentence
            continue
        if cbow:
            told = 1
            scale[c, c] = -1
        else:
            for k in range(span[c, 0] - left, span[c, 1] - left):
                scale[k, c] = -1
            scale[own + c, c] = 0  # the word itself is none of its context
        scale[first:used, c] = share * told
        count += told
    return count


@compiled
def learn(  # noqa: PLR0913 - two tables, what is shown, and how to step
    inputs: NDArray, parts: NDArray, offsets: NDArray, outputs: NDArray, words: NDArray, spans: NDArray, kept: NDArray,
    noise: NDArray, share: float, rate: float, cbow: bool,
) -> tuple[float, int]:  # fmt: skip
    """One step of gradient descent for each block of eight words in turn, in place.

    Args:
        inputs: (R, D) float32, rows of the vectors that ask.
        parts: (P,) int64, the rows that make the vector of each word; see `_gather`.
        offsets: (V + 1,) int64, where in `parts` those of each word begin.
        outputs: (V, D) float32, vectors of the words to be told.
        words: (B, L) int32, what `word_contexts.show` kept of B rows of text.
        spans: (B, L, 2) int32, the context of each.
        kept: (B,) int32, how many.
        noise: (B, blocks, S) int32.
        share: K / S, what a word of noise weighs.
        rate: what the gradient of the sum of a block's losses is multiplied with; 0 to change nothing.
        cbow: the mean of a context asks for its word, in place of the word for each of its context.

    Returns:
        The sum of all losses, each before its block's step, and the number of words that were to be told.
    """
    width = (inputs.shape[1] + LANES - 1) // LANES * LANES  # what lies behind a vector stays 0
    around = BLOCK + 2 * (spans[:, :, 1] - spans[:, :, 0]).max()  # a block and its context
    most = (around + noise.shape[2] + 7) // 8 * 8
    asked, gradient, rest = _room(BLOCK, width), _room(BLOCK, width), _room(1, BLOCK)
    turned, near, told = _room(width, BLOCK), _room(around, width), _room(most, width)
    x, scale, mix = _room(most, BLOCK), _room(most, BLOCK), _room(around, BLOCK)
    rows, places = np.zeros(most, np.int32), np.arange(around).astype(np.int32)
    answers, scales, bits, loss, count = x.reshape(-1), scale.reshape(-1), np.zeros(x.size, np.int32), 0.0, 0
    for row in range(len(words)):
        for start in range(0, kept[row], BLOCK):
            span = spans[row, start : min(start + BLOCK, kept[row])]
            left, right = span[:, 0].min(), span[:, 1].max()
            mine, theirs = words[row, start : start + len(span)], words[row, left:right]
            asking, targets = (theirs, mine) if cbow else (mine, theirs)
            first, used = len(targets), len(targets) + noise.shape[2]
            rows[:first], rows[first:used] = targets, noise[row, start // BLOCK]
            whole = (used + 7) // 8 * 8  # what is behind the rows that are used weighs nothing
            _read(outputs, rows, used, told)
            _prefetch(inputs, outputs, words[row, : kept[row]], noise[row], start // BLOCK + 1)
            _gather(inputs, parts, offsets, asking, near if cbow else asked)
            if cbow:
                _mix(span, start - left, left, mix)
                _pull(mix, near, len(theirs), asked)
            count += _weigh(span, start - left, left, first, used, share, cbow, scale)
            _ask(asked, turned, told, whole, x)
            loss += judge(answers, scales, bits, whole * BLOCK)
            if not rate:
                continue
            _pull(x, told, whole, gradient)
            _push(x, asked, outputs, rows, used, rate, rest)
            if cbow and len(parts) == len(offsets) - 1:  # no word shares its row
                _push(mix, gradient, inputs, theirs, len(theirs), rate, rest)
                continue
            if cbow:
                near[:] = 0
                _push(mix, gradient, near, places, len(theirs), -1, rest)
            _scatter(inputs, parts, offsets, asking, near if cbow else gradient, rate)
    return loss, count


@compiled
def add_changes(table: NDArray, copies: NDArray, weights: NDArray, start: int, stop: int) -> None:
    """Rows of a table get the sum of what was changed in T copies of it.

    Args:
        table: (R, D) float32, as it was when it was copied.
        copies: (T, R, D) float32.
        weights: (V,) float32, what the sum is multiplied with; 1 for the rows behind.
        start: first row.
        stop: the one after the last.
    """
    change = np.zeros(table.shape[1], np.float32)
    for row in range(start, stop):
        change[:] = 0
        for copy in copies:
            for d in range(table.shape[1]):
                change[d] += copy[row, d] - table[row, d]
        weight = weights[row] if row < len(weights) else np.float32(1)
        for d in range(table.shape[1]):
            table[row, d] += weight * change[d]

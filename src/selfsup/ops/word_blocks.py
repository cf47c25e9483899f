"""The update of word vectors in closed form, a block of neighboring words at a time.

Mikolov et al. 2013: the vector of a word has to tell the words around it (skip-gram), or the mean of theirs has to
tell it (CBOW), from words drawn at random. For a question h about a word o, with S words of noise n that stand for K,

    loss = -log sigma(h . u_o) - K / S sum_n log sigma(-h . u_n).

The words of a block share their noise (Ji et al. 2016, "Parallelizing Word2Vec in Shared and Distributed Memory"), so
the work is small matrix products. All that asks is copied, and all gradients are known, before a row changes: the block
moves by the exact gradient of the sum of its losses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from selfsup.ops.compiled import compiled
from selfsup.ops.logistic import judge


@compiled
def _ask(asked: NDArray, c: int, table: NDArray, rows: NDArray, first: int, last: int, x: NDArray) -> None:
    """x[c, k] = h_c . u of row k, for c and the next, and k from `first` to before `last`, by fours.

    Eight sums at a time, because what is read is used twice or four times.
    """
    for k in range(first, last, 4):
        r0, r1, r2, r3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = np.float32(0)
        for d in range(asked.shape[1]):
            h, i = asked[c, d], asked[c + 1, d]
            u0, u1, u2, u3 = table[r0, d], table[r1, d], table[r2, d], table[r3, d]
            x0 += h * u0
            x1 += h * u1
            x2 += h * u2
            x3 += h * u3
            y0 += i * u0
            y1 += i * u1
            y2 += i * u2
            y3 += i * u3
        x[c, k], x[c, k + 1], x[c, k + 2], x[c, k + 3] = x0, x1, x2, x3
        x[c + 1, k], x[c + 1, k + 1], x[c + 1, k + 2], x[c + 1, k + 3] = y0, y1, y2, y3


@compiled
def _pull(gradient: NDArray, c: int, table: NDArray, rows: NDArray, first: int, last: int, g: NDArray) -> None:
    """The gradients of h_c and the next get g[c, k] u of row k, for the same k."""
    for k in range(first, last, 4):
        r0, r1, r2, r3 = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        g0, g1, g2, g3 = g[c, k], g[c, k + 1], g[c, k + 2], g[c, k + 3]
        f0, f1, f2, f3 = g[c + 1, k], g[c + 1, k + 1], g[c + 1, k + 2], g[c + 1, k + 3]
        for d in range(gradient.shape[1]):
            u0, u1, u2, u3 = table[r0, d], table[r1, d], table[r2, d], table[r3, d]
            gradient[c, d] += g0 * u0 + g1 * u1 + g2 * u2 + g3 * u3
            gradient[c + 1, d] += f0 * u0 + f1 * u1 + f2 * u2 + f3 * u3


@compiled
def _push(table: NDArray, rows: NDArray, g: NDArray, asked: NDArray, rate: float) -> None:
    """One step of u of every row, whose gradient is the sum over c of g_ck h_c; C is a multiple of 8."""
    step = np.float32(-rate)
    for k in range(len(rows)):
        row = rows[k]
        for c in range(0, len(asked), 8):
            g0, g1, g2, g3 = step * g[c, k], step * g[c + 1, k], step * g[c + 2, k], step * g[c + 3, k]
            g4, g5, g6, g7 = step * g[c + 4, k], step * g[c + 5, k], step * g[c + 6, k], step * g[c + 7, k]
            for d in range(asked.shape[1]):
                table[row, d] += (
                    (g0 * asked[c, d] + g1 * asked[c + 1, d] + g2 * asked[c + 2, d] + g3 * asked[c + 3, d])
                    + (g4 * asked[c + 4, d] + g5 * asked[c + 5, d] + g6 * asked[c + 6, d] + g7 * asked[c + 7, d])
                )  # fmt: skip


@compiled
def _gather(table: NDArray, parts: NDArray, offsets: NDArray, words: NDArray, found: NDArray) -> None:
    """Vectors of words: the sum of each one's rows in the table over the root of their number."""
    width = table.shape[1]
    for place in range(len(words)):
        start, stop = offsets[words[place]], offsets[words[place] + 1]
        row = parts[start]
        if stop - start == 1:
            for d in range(width):
                found[place, d] = table[row, d]
            continue
        scale = np.float32(1 / math.sqrt(stop - start))
        found[place] = 0
        for part in range(start, stop):
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
def _means(spans: NDArray, start: int, left: int, near: NDArray, asked: NDArray) -> None:
    """CBOW: what asks for each word is the mean of its context."""
    for c in range(len(spans)):
        first, last, own = spans[c, 0] - left, spans[c, 1] - left, start + c - left
        scale = np.float32(1 / max(last - first - 1, 1))
        for d in range(asked.shape[1]):
            asked[c, d] = -scale * near[own, d]
        for place in range(first, last):
            for d in range(asked.shape[1]):
                asked[c, d] += scale * near[place, d]


@compiled
def _spread(spans: NDArray, start: int, left: int, gradient: NDArray, near_gradient: NDArray) -> None:
    """CBOW: the gradient of a mean, to what it is the mean of."""
    near_gradient[:] = 0
    for c in range(len(spans)):
        first, last, own = spans[c, 0] - left, spans[c, 1] - left, start + c - left
        scale = np.float32(1 / max(last - first - 1, 1))
        for place in range(first, last):
            weight = scale if place != own else np.float32(0)
            for d in range(gradient.shape[1]):
                near_gradient[place, d] += weight * gradient[c, d]


@compiled
def _reach(span: NDArray, c: int, left: int, cbow: bool) -> tuple[int, int]:
    """From where to where the words lie that c and the next one may have to tell, by fours."""
    d = min(c + 1, len(span) - 1)
    if cbow:
        return c // 4 * 4, c // 4 * 4 + 4
    return (min(span[c, 0], span[d, 0]) - left) // 4 * 4, (max(span[c, 1], span[d, 1]) - left + 3) // 4 * 4


@compiled
def _ask_all(
    span: NDArray, left: int, cbow: bool, asked: NDArray, table: NDArray, rows: NDArray, room: int, x: NDArray
) -> None:
    """What every question answers, to the words that are to be told and to noise."""
    for c in range(0, len(span), 2):
        low, high = _reach(span, c, left, cbow)
        _ask(asked, c, table, rows, low, high, x)
        _ask(asked, c, table, rows, room, len(rows), x)


@compiled
def _pull_all(
    span: NDArray, left: int, cbow: bool, gradient: NDArray, table: NDArray, rows: NDArray, room: int, g: NDArray
) -> None:
    """The gradients of all questions."""
    gradient[:] = 0
    for c in range(0, len(span), 2):
        low, high = _reach(span, c, left, cbow)
        _pull(gradient, c, table, rows, low, high, g)
        _pull(gradient, c, table, rows, room, len(rows), g)


@compiled
def _weigh(span: NDArray, start: int, left: int, share: float, room: int, cbow: bool, scale: NDArray) -> int:
    """Fill the weights that `judge` takes; returns the number of words that are to be told."""
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
            scale[c, span[c, 0] - left : span[c, 1] - left] = -1
            scale[c, start + c - left] = 0  # the word itself is none of its context
        scale[c, room:] = share * told
        count += told
    return count


@compiled
def learn(  # noqa: PLR0913 - two tables, what is shown, and how to step
    inputs: NDArray, parts: NDArray, offsets: NDArray, outputs: NDArray, words: NDArray, spans: NDArray, kept: NDArray,
    noise: NDArray, block: int, share: float, rate: float, cbow: bool,
) -> tuple[float, int]:  # fmt: skip
    """One step of gradient descent for each block of words in turn, in place.

    Args:
        inputs: (R, D) float32, rows of the vectors that ask.
        parts: (P,) int64, the rows that make the vector of each word; see `_gather`.
        offsets: (V + 1,) int64, where in `parts` those of each word begin.
        outputs: (V, D) float32, vectors of the words to be told.
        words: (B, L) int32, what `word_contexts.show` kept of B rows of text.
        spans: (B, L, 2) int32, the context of each.
        kept: (B,) int32, how many.
        noise: (B, blocks, S) int32, S a multiple of 4.
        block: C, words that share their noise and change together, a multiple of 8.
        share: K / S, what a word of noise weighs.
        rate: what the gradient of the sum of a block's losses is multiplied with; 0 to change nothing.
        cbow: the mean of a context asks for its word, in place of the word for each of its context.

    Returns:
        The sum of all losses, each before its block's step, and the number of words that were to be told.
    """
    width, size = inputs.shape[1], noise.shape[2]
    most = block + 2 * (spans[:, :, 1] - spans[:, :, 0]).max() + 4  # words around a block, and what fills up four
    asked, gradient = np.zeros((block, width), np.float32), np.zeros((block, width), np.float32)
    near, near_gradient = np.zeros((most, width), np.float32), np.zeros((most, width), np.float32)
    answers, scales = np.zeros(block * (most + size), np.float32), np.zeros(block * (most + size), np.float32)
    bits, rows, loss, count = np.zeros(block * (most + size), np.int32), np.zeros(most + size, np.int64), 0.0, 0
    for row in range(len(words)):
        for start in range(0, kept[row], block):
            stop = min(start + block, kept[row])
            span = spans[row, start:stop]
            left, right = span[:, 0].min(), span[:, 1].max()
            mine, around = words[row, start:stop], words[row, left:right]
            targets = mine if cbow else around
            room = (len(targets) + 3) // 4 * 4
            all_of = room + size
            rows[:room], rows[room:all_of] = targets[0], noise[row, start // block]
            rows[: len(targets)] = targets
            x = answers[: block * all_of].reshape(block, all_of)
            scale = scales[: block * all_of].reshape(block, all_of)
            if cbow:
                _gather(inputs, parts, offsets, around, near)
                _means(span, start, left, near, asked)
            else:
                _gather(inputs, parts, offsets, mine, asked)
            count += _weigh(span, start, left, share, room, cbow, scale)
            _ask_all(span, left, cbow, asked, outputs, rows[:all_of], room, x)
            loss += judge(answers[: block * all_of], scales[: block * all_of], bits[: block * all_of])
            if not rate:
                continue
            _pull_all(span, left, cbow, gradient, outputs, rows[:all_of], room, x)
            _push(outputs, rows[:all_of], x, asked, rate)
            if cbow:
                _spread(span, start, left, gradient, near_gradient[: right - left])
                _scatter(inputs, parts, offsets, around, near_gradient, rate)
            else:
                _scatter(inputs, parts, offsets, mine, gradient, rate)
    return loss, count

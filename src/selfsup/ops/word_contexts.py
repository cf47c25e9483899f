"""What word vectors are shown: which words are kept, how far each looks, and which words are noise.

Mikolov et al. 2013 ("Distributed Representations of Words and Phrases and their Compositionality"): frequent words are
left out at random (section 2.3, in the form of their program), windows shrink at random, negatives are drawn in
proportion to counts ** 0.75 (section 2.2). The random numbers are those of `Draw`, compiled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from selfsup.ops.compiled import compiled

# splitmix64, as in data/draw.py; numba makes floats of int64 and uint64 together, so all of it is unsigned.
GAMMA = np.uint64(0x9E37_79B9_7F4A_7C15)
MIX_1 = np.uint64(0xBF58_476D_1CE4_E5B9)
MIX_2 = np.uint64(0x94D0_49BB_1331_11EB)
ONE, S24, S27, S30, S31, S32, S40 = (np.uint64(number) for number in (1, 24, 27, 30, 31, 32, 40))
LOW = np.uint64((1 << 24) - 1)


@compiled
def bits(state: np.uint64, index: int) -> np.uint64:
    """64 random bits: element `index` of the stream in this state; see `Draw.stream`."""
    x = state + np.uint64(index + 1) * GAMMA
    x = (x ^ (x >> S30)) * MIX_1
    x = (x ^ (x >> S27)) * MIX_2
    return x ^ (x >> S31)


def keep_chances(counts: NDArray, sample: float) -> NDArray:
    """(V,) float32: how likely a word is kept where it stands, sqrt(t / f) + t / f of its share f of the text.

    Args:
        counts: (V,) of each word.
        sample: t; 0 keeps all.
    """
    share = np.maximum(counts / max(counts.sum(), 1), 1e-30)
    return np.minimum(np.sqrt(sample / share) + sample / share, 1).astype(np.float32) if sample else share * 0 + 1


def alias(chances: NDArray) -> tuple[NDArray, NDArray]:
    """Tables that draw from a distribution with one number (Walker 1977): (V,) float32 and (V,) int32.

    Of a number V u, the whole part is a candidate; where the rest is not below the first table there, the second one
    has the answer.

    Args:
        chances: (V,) in any proportion.
    """
    scaled = chances * (len(chances) / chances.sum())
    below, other = scaled.copy(), np.arange(len(chances), dtype=np.int32)
    small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
    while small and large:
        poor, rich = small.pop(), large[-1]
        other[poor] = rich
        below[rich] -= 1 - below[poor]
        if below[rich] < 1:
            small.append(large.pop())
    below[small + large] = 1  # what rounding left over
    return below.astype(np.float32), other


@compiled
def show(
    tokens: NDArray, end: int, keep: NDArray, window: int, streams: NDArray, words: NDArray, spans: NDArray,
    kept: NDArray,
) -> None:  # fmt: skip
    """Leave words out, and say what each of the others looks at; windows do not reach over the ends of sentences.

    Args:
        tokens: (B, L) ids.
        end: id that stands between sentences, and behind the last.
        keep: (V,) how likely each word is kept.
        window: most words on each side; each word draws a number from 1 to it.
        streams: (B, 2) uint64, the states of the draws that keep and that shrink.
        words: (B, L) int32, filled with the words that are kept.
        spans: (B, L, 2) int32, filled with where among them the context of each begins and stops, itself within.
        kept: (B,) int32, filled with their number.
    """
    for row in range(len(tokens)):
        count, first = 0, 0  # words so far, and the first of the sentence
        for place in range(tokens.shape[1] + 1):
            token = tokens[row, place] if place < tokens.shape[1] else end
            if token == end:
                for word in range(first, count):
                    spans[row, word, 1] = min(spans[row, word, 1], count)
                first = count
                continue
            if (bits(streams[row, 0], place) >> S40) * np.float32(2.0**-24) >= keep[token]:
                continue
            radius = 1 + np.int64((bits(streams[row, 1], place) >> ONE) % np.uint64(window))
            words[row, count] = token
            spans[row, count, 0], spans[row, count, 1] = max(count - radius, first), count + radius + 1
            count += 1
        kept[row] = count


@compiled
def draw_noise(below: NDArray, other: NDArray, streams: NDArray, kept: NDArray, block: int, noise: NDArray) -> None:
    """Words that stand for any other, drawn with replacement from an alias table.

    Args:
        below: (V,) of `alias`.
        other: (V,) of `alias`.
        streams: (B,) uint64, the state of the draw of each row.
        kept: (B,) words in each row.
        block: words that share their noise.
        noise: (B, blocks, S) int32, filled for the blocks that have words.
    """
    size = np.uint64(len(below))
    for row in range(len(noise)):
        for part in range((kept[row] + block - 1) // block):
            for number in range(noise.shape[2]):
                drawn = bits(streams[row], part * noise.shape[2] + number)
                word = np.int64(((drawn >> S32) * size) >> S32)
                rest = (drawn & LOW) * np.float32(2.0**-24)
                noise[row, part, number] = word if rest < below[word] else other[word]

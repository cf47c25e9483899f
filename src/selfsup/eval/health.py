"""The vital signs of an encoder: whether its vectors still tell inputs apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfsup.data.captions import CaptionStore
from selfsup.data.pixels import PixelStore
from selfsup.data.token_store import TokenStore
from selfsup.encoder import Encoder
from selfsup.eval.labelled import Samples
from selfsup.image_encoder import ImageEncoder
from selfsup.ops.spectrum import alignment, effective_rank, mean_cosine, spread, uniformity
from selfsup.text_encoder import TextEncoder
from selfsup.word_vectors import WordVectors

FEW = 256  # samples for a quick look
FREQUENT = 100  # words that are told apart where their order is looked at


def some(store: PixelStore | TokenStore | CaptionStore, encoder: Encoder, most: int = FEW) -> Samples:
    """Samples for an encoder, evenly spread over a store: pictures, or stretches of text as long as it can read."""
    if isinstance(store, CaptionStore):
        store = store.pictures if isinstance(encoder, ImageEncoder) else store.tokens
    if isinstance(store, PixelStore):
        return store.subset(np.unique(np.linspace(0, len(store) - 1, min(most, len(store))).astype(np.int64)))
    assert isinstance(encoder, TextEncoder | WordVectors)
    length = min(encoder.context, max(len(store) // most, 8))
    starts = np.unique(np.linspace(0, max(len(store) - length, 0), most).astype(np.int64))
    return store.tokenizer.batch_decode([store.read(start, start + length).tolist() for start in starts.tolist()])


def vitals(encoder: Encoder, samples: Samples) -> dict[str, float]:
    """Signs of the features of some samples, each by name.

    `effective rank`: directions that the features use, their mean taken away; `width`: D; `spread`: deviation of each
    dimension on the unit sphere times the square root of D, about 1 where they lie all over it; `mean cosine`;
    `distinct`: distance of the features from their mean, as a share of their length. None where they are no numbers.
    """
    features = encoder.encode(samples)  # (N, D)
    if not features.isfinite().all():
        return {}
    centered = features - features.mean(0)
    return {
        "effective rank": float(effective_rank(centered)),
        "width": float(features.shape[1]),
        "spread": float(spread(features).mean()),
        "mean cosine": float(mean_cosine(features)),
        "distinct": float(centered.norm() / features.norm().clamp(min=1e-12)),
    }


def view_vitals(encoder: ImageEncoder, views: Sequence[np.ndarray]) -> dict[str, float]:
    """Alignment of two views of the same pictures, uniformity of one (Wang and Isola 2020)."""
    first, second = (encoder.encode(list(view)) for view in views)
    return {"alignment": float(alignment(first, second)), "uniformity": float(uniformity(first[: 2 * FEW]))}


def word_order(text: str, most: int = 50_000) -> float | None:
    """How much more a word tells of the next one than it would in any order; 1 for shuffled text.

    The mutual information of neighboring words, all but the `FREQUENT` commonest counted as one, over the same after
    shuffling (the mean of five orders), which is what so few words seem to tell by chance. Text without spaces is taken
    by characters.

    Returns:
        The ratio, or None for text too short to tell.
    """
    words = text.split()
    if len(text) > 20 * max(len(words), 1):
        words = list(text)
    if len(words) < 5000:
        return None
    _, ids, counts = np.unique(np.array(words[:most]), return_inverse=True, return_counts=True)
    place = np.empty(len(counts), np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    ids = np.minimum(place[ids], FREQUENT)

    def information(order: np.ndarray) -> float:
        """Mutual information of neighbors, in nats."""
        both = np.bincount(order[:-1] * (FREQUENT + 1) + order[1:], minlength=(FREQUENT + 1) ** 2)
        both = both.reshape(FREQUENT + 1, -1) / (len(order) - 1)
        apart = both.sum(1, keepdims=True) * both.sum(0, keepdims=True)
        seen = both > 0
        return float((both[seen] * np.log(both[seen] / apart[seen])).sum())

    generator = np.random.Generator(np.random.Philox(key=0))
    by_chance = float(np.mean([information(generator.permutation(ids)) for _ in range(5)]))
    return information(ids) / max(by_chance, 1e-6)

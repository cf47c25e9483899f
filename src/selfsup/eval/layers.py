"""Which layer of an encoder transfers best, chosen without a look at the part that is scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfsup.encoder import Encoder
from selfsup.eval.features import Features
from selfsup.eval.few_labels import Level
from selfsup.eval.labelled import Labelled, Samples, chosen, spread_rows
from selfsup.eval.linear import choose_setting
from selfsup.eval.probes import Score, linear_score

MOST = 20_000  # samples of the part to fit on that the layer is chosen on
AT_ONCE = 8192  # samples whose layers are in memory when one of them is wanted
LAST = "last"  # the vector that the encoder gives


@dataclass(frozen=True)
class BestLayer:
    """The layer that was chosen.

    Attributes:
        layer: its number, from 1, or `last`.
        held_out: accuracy of a linear probe on each layer, on a tenth of the part to fit on that it was not fitted on.
        score: what a probe on the chosen layer answers, with all labels.
    """

    layer: str
    held_out: dict[str, float]
    score: Score


def shows_layers(encoder: Encoder, samples: Samples) -> bool:
    """Whether an encoder gives more than its last vector; a few networks of timm do not, nor do word vectors."""
    try:
        return len(encoder.layers(chosen(samples, np.arange(1)))) > 1
    except AttributeError:  # timm's networks without `forward_intermediates`
        return False


def best_layer(encoder: Encoder, labelled: Labelled, last: Features, seed: int, name: str) -> BestLayer:
    """The layer whose linear probe does best on held-out rows of the part to fit on, and its score.

    Of layers that do equally well the later one is chosen.

    Args:
        encoder: with several layers.
        labelled: the data.
        last: the encoder's own vectors of it.
        seed: of the probes, and of the held-out rows.
        name: who answers.
    """
    rows = spread_rows(len(labelled.labels), MOST)
    labels, classes = labelled.labels[rows], len(labelled.classes)
    layers = encoder.layers(chosen(labelled.train, rows))  # L of (n, D_l)
    candidates = {LAST: last.train[rows], **{str(n): layers[n - 1] for n in range(len(layers), 0, -1)}}
    held_out = {
        layer: choose_setting(features, labels, classes, seed).held_out_accuracy
        for layer, features in candidates.items()
    }
    best = max(held_out, key=held_out.__getitem__)
    features = last
    if best != LAST:
        train, test = (_layer(encoder, samples, int(best) - 1) for samples in (labelled.train, labelled.test))
        features = Features(train, test, labelled)
    score = linear_score(name, features, labelled, Level(share=1.0), seed)
    return BestLayer(best, dict(reversed(held_out.items())), score)


def _layer(encoder: Encoder, samples: Samples, number: int) -> Tensor:
    """(N, D_l) of one layer."""
    starts = range(0, len(samples), AT_ONCE)
    some = (chosen(samples, np.arange(start, min(start + AT_ONCE, len(samples)))) for start in starts)
    return torch.cat([encoder.layers(part)[number] for part in some])

"""Whether pictures find their captions, and captions their pictures.

R@k: of the k nearest by cosine one at least belongs to what is asked. Pictures and captions are told apart by content:
equal ones stand once, and a caption of several pictures is found with any of them, as a picture with any of its own
(open_clip's evaluation in training knows one caption a picture, and five are read as wrong).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from selfsup.data.captions import numbered
from selfsup.data.pixels import PixelStore
from selfsup.encoder import Encoder
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import Gain, gains
from selfsup.ops.topk import top_k
from selfsup.progress import Progress
from selfsup.run import Run

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Links:
    """Distinct pictures and captions, and which belong together.

    Attributes:
        pictures: N distinct ones.
        texts: T distinct captions.
        pairs: (P, 2) numbers of a picture and of a caption; each pair once.
    """

    pictures: PixelStore
    texts: list[str]
    pairs: np.ndarray

    @classmethod
    def of(cls, pictures: PixelStore, captions: Sequence[Sequence[str]]) -> Links:
        """From the captions of each row."""
        texts, first, numbers = numbered(captions)
        _, rows, place = np.unique(pictures.digests[pictures.rows], return_index=True, return_inverse=True)
        owners = np.repeat(place, np.diff(first))
        return cls(pictures.subset(rows), texts, np.unique(np.stack([owners, numbers], 1), axis=0))


def found_at(asked: Tensor, others: Tensor, pairs: np.ndarray, depths: Sequence[int] = DEPTHS) -> Tensor:
    """(depths, Q) bool: whether one of the nearest k belongs to each that is asked.

    Args:
        asked: (Q, D) of unit length.
        others: (N, D) of unit length.
        pairs: (P, 2) numbers of what is asked and of what belongs to it.
        depths: k, several.
    """
    most = min(max(depths), len(others))
    nearest = top_k(asked, others, most)[1].numpy()  # (Q, most)
    right = np.isin(np.arange(len(asked))[:, None] * len(others) + nearest, pairs[:, 0] * len(others) + pairs[:, 1])
    return torch.from_numpy(np.stack([right[:, :k].any(1) for k in depths]))


def chance_at(asked: int, others: int, pairs: np.ndarray, depths: Sequence[int] = DEPTHS) -> Tensor:
    """(depths, Q) what `found_at` is expected to be for `others` in random order."""
    belong = np.bincount(pairs[:, 0], minlength=asked)
    return torch.from_numpy(np.stack([stats.hypergeom.sf(0, others, belong, min(k, others)) for k in depths]))


def evaluate_captions(
    run: Run, encoders: Mapping[str, Mapping[str, Encoder]], links: Links, name: str, split: str, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """R@1, 5 and 10 both ways, beside those of the untrained networks and of chance.

    Args:
        run: of an objective with a pair of towers.
        encoders: the sides `image` and `text` of each who is judged, `run` among them.
        links: what belongs together.
        name: of the data.
        split: part of it.
        progress: shows the work.
    """
    found: list[Result] = []
    right: dict[str, dict[str, Tensor]] = {}
    for done, (who, sides) in enumerate(encoders.items()):
        progress.part(f"captions: {who}", done, len(encoders))
        pictures, texts = sides["image"].encode(links.pictures), sides["text"].encode(links.texts)
        ways = {
            "picture to text": (pictures, texts, links.pairs),
            "text to picture": (texts, pictures, links.pairs[:, ::-1]),
        }
        for way, (asked, others, pairs) in ways.items():
            hits, chance = found_at(asked, others, pairs), chance_at(len(asked), len(others), pairs)
            for k, hit, expected in zip(DEPTHS, hits, chance, strict=True):
                metric = f"R@{k} accuracy, {way}"
                mean = float(hit.double().mean())
                found.append(result(run, "captions", who, metric, mean, float(expected.mean()), name, split))
            where = f"of R@1, {way}, among {len(others):,}"
            right.setdefault(where, {"chance": chance[:1]})[who] = hits[:1]
    progress.part("captions", len(encoders), len(encoders))
    return found, gains(right)

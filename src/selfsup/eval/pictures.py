"""What a picture encoder is worth where there are no labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from selfsup.data.pixels import PixelStore
from selfsup.eval.features import flat_pixels
from selfsup.eval.health import some
from selfsup.eval.other_view import found_again, two_views
from selfsup.eval.probes import CALIBRATION, encoders_of
from selfsup.eval.result import Result, result
from selfsup.eval.verdict import Gain, gains
from selfsup.image_encoder import ImageEncoder
from selfsup.ops.spectrum import effective_rank
from selfsup.progress import Progress
from selfsup.run import Run


def evaluate_unlabelled(
    run: Run, store: PixelStore, name: str, split: str, progress: Progress
) -> tuple[list[Result], list[Gain]]:
    """Finding a picture by another view and effective rank, of all encoders and raw pixels; and the held-out loss."""
    encoders = encoders_of(run)
    trained, untrained = encoders["run"], encoders["untrained"]
    assert isinstance(trained, ImageEncoder) and isinstance(untrained, ImageEncoder)
    untrained.calibrate(some(store, untrained, CALIBRATION))
    views = two_views(store, trained.about.size, run.recipe.seed)
    ways: dict[str, Callable[[np.ndarray], Tensor]] = {
        who: lambda view, encoder=encoder: encoder.encode(list(view)) for who, encoder in encoders.items()
    }
    ways["raw"] = _centered
    found, right = [], {}
    for done, (who, encode) in enumerate(ways.items()):
        progress.part(f"other views: {who}", done, len(ways))
        right[who] = found_again(encode, views)[None]
        found.append(
            result(run, "other view", who, "R@1 accuracy", float(right[who].double().mean()), 1 / len(views[0]), name,
                   split)
        )  # fmt: skip
        if who in encoders:
            rank = float(effective_rank(encode(views[0])))
            found.append(result(run, "other view", who, "effective rank", rank, 1.0, name, split))
    progress.part("other views", len(ways), len(ways))
    watched = [line for line in run.lines("evals.jsonl") if line["task"] == "pretext"]
    if watched:  # what training itself asked, as it was at the last look
        last = watched[-1]
        loss = result(run, "own task", "run", "loss", last["mean"], last["chance"], run.recipe.data.source, "held-out")
        found.append({**loss, "layer": "head"})
    return found, gains({f"in finding one of {len(views[0]):,} pictures by another view": right})


def _centered(view: np.ndarray) -> Tensor:
    """Raw pixels less the mean of each picture: brightness is the first thing that another view changes."""
    flat = flat_pixels(view, view.shape[1])
    return flat - flat.mean(1, keepdim=True)

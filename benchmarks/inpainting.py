"""Holes in held-out pictures filled by a run of `inpainting`, beside smoothness and scipy's interpolation.

    python benchmarks/inpainting.py RUN [--pictures 500]

The pictures and holes are those of the run's own validation: crops with a fixed draw. scipy interpolates bilinearly in
the triangles between known pixels, and takes the nearest known one beyond them. Mean squared error inside the holes, in
deviations of the data, and in how many of the pictures the run is the nearest of all. One line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import torch
from scipy.interpolate import griddata
from torch import Tensor

import selfsup
from selfsup.data.draw import Draw
from selfsup.encoder import evaluating
from selfsup.objectives.inpainting import Inpainting, reader
from selfsup.ops.holes import smooth_fill
from selfsup.prepare import prepare
from selfsup.progress import Progress

BATCH = 50


def interpolated(pictures: Tensor, hole: Tensor) -> Tensor:
    """(B, C, S, S) with holes (B, 1, S, S) filled by scipy."""
    filled = pictures.numpy().copy()
    for picture, missing in zip(filled, hole[:, 0].numpy(), strict=True):
        known, wanted = np.argwhere(~missing), np.argwhere(missing)
        colors = picture[:, ~missing].T
        told, nearest = (griddata(known, colors, wanted, method) for method in ("linear", "nearest"))
        picture[:, missing] = np.where(np.isnan(told), nearest, told).T
    return torch.from_numpy(filled)


def main() -> None:
    """Fill and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=500)
    given = parser.parse_args()
    run = selfsup.Run(given.run)
    objective, recipe = run.objective(), run.recipe
    assert isinstance(objective, Inpainting), "give a run of inpainting"
    store = prepare(recipe.data, None, False, Progress(False)).held_out
    assert store is not None, "the data of this run have no held-out part"
    held_out, found = reader(recipe.config, store), {}
    rows = np.unique(np.linspace(0, len(store) - 1, min(given.pictures, len(store))).astype(np.int64))
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        draw = Draw(recipe.seed, -1, torch.from_numpy(part))
        with evaluating(objective):
            views = objective.views(held_out.gather(draw), draw)
            image, hole = views["image"], views["hole"]
            fillings = {
                "run": objective.network(image, hole),
                "smooth": smooth_fill(image, hole),
                "scipy": interpolated(image, hole),
            }
        missing = hole.flatten(1).sum(1) * image.shape[1]
        for name, filled in fillings.items():
            found.setdefault(name, []).append((filled - image).square().flatten(1).sum(1) / missing)
    errors = {name: torch.cat(parts) for name, parts in found.items()}
    best = torch.stack(list(errors.values())).argmin(0) == 0
    line = {"benchmark": "inpainting", "step": run.step, "pictures": len(rows)}
    line |= {name: round(float(error.mean()), 4) for name, error in errors.items()}
    sys.stdout.write(json.dumps({**line, "run is nearest": round(float(best.double().mean()), 3)}) + "\n")


if __name__ == "__main__":
    main()

"""MAE's encoder on the quarter of the patches that it sees beside all of them: forward and backward.

    python benchmarks/masking.py [--quick] [--data cifar10] [--what vit-s16 narrow]

The networks are those of `mae.py`; every round takes as many steps on one batch that stays where it is.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from beside_lightly import TRANSFORMERS, TRANSFORMERS_ON_GPU, Cases, begun, finished, letters
from side_by_side import Side, arguments, in_turn, publish
from torch import Tensor

from selfsup.nn.vit import states, visible_states


def case(what: str, cases: Cases, folder: Path, quick: bool) -> None:
    """One network."""
    settings, batch, steps = cases[what]
    batch, rounds = (batch // 8, 2) if quick else (batch, 5)
    training, prepared = begun("mae", folder, batch, steps, settings)
    objective, runtime = training.objective, training.runtime
    rows, draw = next(training.read(0, 1))[0]
    views = objective.views(runtime.move(rows), draw.to(runtime.device))

    def passes(network: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        def seconds() -> float:
            began = time.perf_counter()
            for _ in range(steps):
                with runtime.autocast():
                    loss = network(views["image"]).float().square().mean()
                loss.backward()
            return finished() - began

        return seconds

    backbone, visible = objective.backbone, views["visible"]
    seeing = partial(visible_states, backbone, visible=visible), partial(states, backbone)
    sides = Side(passes(seeing[0])), Side(passes(seeing[1]))
    times = in_turn(rounds, *sides)
    for side, taken, seen in zip(sides, times, (objective.kept, objective.patches), strict=True):
        side.about = {
            "ms": round(1e3 * statistics.median(taken) / steps, 2), "patches": seen, "batch": batch,
            "network": objective.encoder.about.network, "pixels": prepared.facts.size, "precision": runtime.precision,
        }  # fmt: skip
    publish("masking", what, "all patches", times, sides, {}, ("timm",))


def main() -> None:
    """All networks in turn."""
    given = arguments(__doc__).parse_args()
    cases = TRANSFORMERS_ON_GPU if torch.cuda.is_available() else TRANSFORMERS
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.data) if given.data else letters(Path(scratch) / "glyphs")
        for what in given.what or cases:
            case(what, cases, folder, given.quick)


if __name__ == "__main__":
    main()

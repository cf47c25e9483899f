"""The sum of several losses on shared encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch
from selfsup.encoder import Encoder
from selfsup.fusion.reader import own
from selfsup.objective import ROW_KEYS, Limit, Losses, Objective
from selfsup.ops.gather import processes, sum_over_processes
from selfsup.predictors.predictor import Predictor
from selfsup.recipes import Optimizer


class Fused(Objective):
    """Objectives that share encoders, and the weights of their losses."""

    # Also where no part does: their losses are means over terms of their own, which micro-batches weigh otherwise.
    couples_rows = True

    def __init__(self, parts: Mapping[str, Objective], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleDict(dict(parts)), dict(weights)

    def named(self) -> dict[str, Objective]:
        """The parts by name."""
        return {name: part for name, part in self.parts.items() if isinstance(part, Objective)}

    def views(self, batch: Batch, draw: Draw) -> Batch:
        """The views of all parts, each behind its name and a point."""
        return {
            f"{name}.{key}": value
            for name, part in self.named().items()
            for key, value in part.views(own(name, batch), draw.part(name)).items()
        }

    def forward(self, batch: Batch, draw: Draw, views: Batch | None = None) -> Losses:
        """The weighted sum of the parts' mean losses; what each part says of itself stands behind its name."""
        found: Losses = {}
        rows: list[Tensor | None] = []
        _, world = processes()
        for name, part in self.named().items():
            losses = part(own(name, batch), draw.part(name), None if views is None else own(name, views))
            count = losses.pop("count").detach().float()
            # Its mean is over the terms of all processes, which may have different numbers of them.
            share = count * world / sum_over_processes(count).clamp(min=1e-12)
            rows.append(losses.get("example_loss"))
            found |= {f"{name}.{key}": value * share for key, value in losses.items() if key not in ROW_KEYS}
        sums = {
            key: torch.stack([weight * found[f"{name}.{key}"] for name, weight in self.weights.items()]).sum()
            for key in ("loss", "trivial")
        }
        of_rows = [weight * row for weight, row in zip(self.weights.values(), rows, strict=True) if row is not None]
        each = {"example_loss": torch.stack(of_rows).sum(0)} if len(of_rows) == len(rows) else {}
        said = {name: value.detach() for name, value in found.items()}
        return {**sums, "count": sums["loss"].new_tensor(len(draw)), **said, **each}

    def encoders(self) -> Mapping[str, Encoder]:
        """Those of all parts; of one name the first."""
        found: dict[str, Encoder] = {}
        for part in self.named().values():
            found |= {name: encoder for name, encoder in part.encoders().items() if name not in found}
        return found

    def predictors(self) -> Sequence[Predictor]:
        """Those of all parts; of one kind the first."""
        found: dict[str, Predictor] = {}
        for part in self.named().values():
            found |= {one.kind: one for one in part.predictors() if one.kind not in found}
        return list(found.values())

    def after_step(self, progress: float) -> None:
        """After a step of each."""
        for part in self.named().values():
            part.after_step(progress)

    def guessing(self, batch: int) -> Mapping[str, float]:
        """What guessing gets in the questions of all parts, each behind its part's name."""
        return {
            f"{name}.{metric}": share
            for name, part in self.named().items()
            for metric, share in part.guessing(batch).items()
        }

    def limits(self) -> Mapping[str, Limit]:
        """Those of all parts; of what they share the narrowest."""
        found: dict[str, Limit] = {}
        shared = {field.name for field in fields(Optimizer)}
        for name, part in self.named().items():
            for setting, limit in part.limits().items():
                key = setting if setting in shared else f"{name}_{setting}"
                if key not in found or limit.low > found[key].low:
                    found[key] = limit
        return found

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Those of all parts, behind their names; the picture itself once."""
        found: dict[str, Tensor] = {}
        for name, part in self.named().items():
            for title, images in part.pictures(own(name, batch), draw.part(name)).items():
                found[title if title == "picture" else f"{name}: {title}"] = images
        return found

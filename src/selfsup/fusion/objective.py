"""The sum of several losses on shared encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from selfsup.data.draw import Draw
from selfsup.data.reader import Batch
from selfsup.data.weights import WEIGHT
from selfsup.encoder import Encoder
from selfsup.fusion.reader import own
from selfsup.objective import ROW_KEYS, Limit, Losses, Objective
from selfsup.ops.gather import processes, sum_over_processes
from selfsup.ops.weighting import TINY, weighted
from selfsup.predictors.predictor import Predictor
from selfsup.recipes import Optimizer


def of_all(count: Tensor) -> Tensor:
    """What the mean over a process's terms is multiplied with, so that the mean over processes is that of all terms."""
    count = count.detach().float()
    return count * processes()[1] / sum_over_processes(count).clamp(min=TINY)


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
        rows: dict[str, Losses] = {}
        for name, part in self.named().items():
            losses = part(own(name, batch), draw.part(name), None if views is None else own(name, views))
            if WEIGHT in batch:
                losses = weighted(losses, batch[WEIGHT])
            count, terms = losses.pop("count"), losses.pop("terms", None)
            share, plain = of_all(count), of_all(count if terms is None else terms)
            found |= {
                f"{name}.{key}": value * (share if key == "loss" else plain)
                for key, value in losses.items()
                if key not in ROW_KEYS
            }
            rows[name] = losses
        sums = {
            key: torch.stack([weight * found[f"{name}.{key}"] for name, weight in self.weights.items()]).sum()
            for key in ("loss", "trivial")
        }
        count = sums["loss"].new_tensor(len(draw))
        counts = {"count": count, **({"terms": count} if WEIGHT in batch else {})}
        said = {name: value.detach() for name, value in found.items()}
        return {**sums, **counts, **said, **self._of_rows(rows)}

    def _of_rows(self, rows: Mapping[str, Losses]) -> Losses:
        """Loss and difficulty (B,) of each row, where all parts have one: weighted as the sums are."""
        if not all("example_loss" in losses for losses in rows.values()):
            return {}
        loss = torch.stack([self.weights[name] * losses["example_loss"] for name, losses in rows.items()]).sum(0)
        nothing = {name: self.weights[name] * losses["trivial"] for name, losses in rows.items()}
        difficulty = [
            nothing[name] * losses.get("example_difficulty", losses["example_loss"] / losses["trivial"])
            for name, losses in rows.items()
        ]
        return {
            "example_loss": loss,
            "example_difficulty": (torch.stack(difficulty).sum(0) / torch.stack(list(nothing.values())).sum()).detach(),
        }

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
                other = found.get(key, limit)
                low, high = max(limit.low, other.low), min(limit.high, other.high)
                found[key] = Limit(low, high, limit.why if limit.low == low else other.why)
        return found

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Those of all parts, behind their names; the picture itself once."""
        found: dict[str, Tensor] = {}
        for name, part in self.named().items():
            for title, images in part.pictures(own(name, batch), draw.part(name)).items():
                found[title if title == "picture" else f"{name}: {title}"] = images
        return found

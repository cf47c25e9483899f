"""Several objectives at once, on one encoder: `simclr+mae`, `clip+simclr`, `masked_lm+contrastive_text`.

The loss is the weighted sum of the losses of the parts (`--mae-weight 0.5`); the log has each by its name. Optimizer,
batch, budget and data are those of the first part; every part keeps its own reader, its own rows and its own random
numbers. Settings have the name of their part in front (`--simclr-temperature`). Of encoders and heads that two parts
have, the first part's is exported: `dino+simclr` gives the teacher, `simclr+dino` the network itself. `clip+simclr` is
SLIP (Mu et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfsup.data.reader import Reader
from selfsup.fusion.module import FusedModule
from selfsup.fusion.objective import Fused
from selfsup.objective import Objective, ObjectiveModule, load_objective
from selfsup.recipes import Recipe

__all__ = ["Fused", "Part", "apart", "part_of"]


@dataclass(frozen=True)
class Part:
    """An objective by itself, or as a part of a fused one.

    Attributes:
        module: its file.
        config: its settings.
        objective: its live module.
    """

    module: ObjectiveModule
    config: Any
    objective: Objective

    def reader(self, store: object) -> Reader:
        """Its own reader over a store."""
        return self.module.reader(self.config, store)


def apart(recipe: Recipe) -> list[tuple[ObjectiveModule, Any]]:
    """File and settings of every part of a recipe; of what is not fused its own."""
    module = load_objective(recipe.objective)
    if isinstance(module, FusedModule):
        return list(zip(module.parts.values(), module.configs(recipe.config).values(), strict=True))
    return [(module, recipe.config)]


def part_of(recipe: Recipe, objective: Objective, kind: str) -> Part:
    """The first part that has a predictor of a kind; `StopIteration` where none has."""
    live = objective.named().values() if isinstance(objective, Fused) else [objective]
    parts = (Part(*given, one) for given, one in zip(apart(recipe), live, strict=True))
    return next(part for part in parts if kind in {one.kind for one in part.objective.predictors()})

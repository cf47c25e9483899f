"""Whether the rows of an objective can be weighed and judged."""

from __future__ import annotations

import numpy as np

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.fusion.reader import FusedReader
from selfsup.objective import Objective
from selfsup.recipes import Recipe
from selfsup.runtime import Runtime


def require_row_losses(objective: Objective, reader: Reader, recipe: Recipe, runtime: Runtime, what: str) -> None:
    """Raise `UserError` unless the objective tells the loss of each row, which `what` needs.

    Of fused objectives a row has to be the same for all parts.
    """
    if isinstance(reader, FusedReader) and not reader.same_rows:
        counts = ", ".join(f"{name} {len(part):,}" for name, part in reader.readers.items())
        raise UserError(f"{what}: the parts have different rows ({counts}), so that none is one's own; take one part")
    rows = np.arange(min(len(reader), 2))
    batch, draw = next(batches(reader, [(-1, rows)], recipe.seed))
    with evaluating(objective), runtime.autocast():
        losses = objective(runtime.move(batch), draw.to(runtime.device))
    if "example_loss" not in losses:
        raise UserError(f"{what}: {recipe.objective} has no loss of each row on these data, so that none can be told")

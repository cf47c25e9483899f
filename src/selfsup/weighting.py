"""Weights of rows in the loss, whatever the objective."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from selfsup.data.loader import batches
from selfsup.data.reader import Reader
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.objective import Losses, Objective
from selfsup.recipes import Recipe
from selfsup.runtime import Runtime

TINY = 1e-12  # in place of the sum of weights that are all zero


def weighted(losses: Losses, weight: Tensor) -> Losses:
    """The losses of a batch whose rows have weights w.

    With e the loss of each row, the mean of n terms, the share of the rows in the loss, sum(n e) / sum(n), gives way
    to sum(w n e) / sum(w n). What a loss has beside its rows' own terms stays as it is; where rows are compared, a
    weight is that of the row that asks, and the row stays a negative of the others. Metrics are not weighted.

    Args:
        losses: of `Objective.forward`.
        weight: (B,), 0 or more.

    Raises:
        UserError: the objective does not let gradients through the losses of its rows.
    """
    loss = losses["example_loss"]
    if losses["loss"].requires_grad and not loss.requires_grad:
        raise UserError("--weights: example_loss of this objective has no gradient; leave out the detach()")
    even = (losses["count"] / len(loss)).expand(len(loss))
    terms = losses.get("example_count", even).to(loss)  # (B,)

    def mean(weight: Tensor) -> Tensor:
        return (weight * loss).sum() / weight.sum().clamp(min=TINY)

    given = weight.to(loss) * terms
    return {
        **losses,
        "loss": losses["loss"] + (mean(given) - mean(terms)),
        "count": given.sum().clamp(min=TINY),
        "terms": losses["count"],
    }


def require_row_losses(objective: Objective, reader: Reader, recipe: Recipe, runtime: Runtime, what: str) -> None:
    """Raise `UserError` unless the objective tells the loss of each row, which `what` needs."""
    rows = np.arange(min(len(reader), 2))
    batch, draw = next(batches(reader, [(-1, rows)], recipe.seed))
    with evaluating(objective), runtime.autocast():
        losses = objective(runtime.move(batch), draw.to(runtime.device))
    if "example_loss" not in losses:
        raise UserError(f"{what}: {recipe.objective} has no loss of each row on these data, so that none can be told")

"""Weights of rows in a loss."""

from __future__ import annotations

from torch import Tensor

from selfsup.errors import UserError

TINY = 1e-12  # in place of the sum of weights that are all zero


def weighted(losses: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """The losses of a batch whose rows have weights w.

    With e the loss of each row, the mean of n terms, the share of the rows in the loss, sum(n e) / sum(n), gives way
    to sum(w n e) / sum(w n). What a loss has beside its rows' own terms stays as it is; where rows are compared, a
    weight is that of the row that asks, and the row stays a negative of the others. Metrics are not weighted.

    Args:
        losses: of `Objective.forward`.
        weight: (B,), 0 or more.

    Returns:
        The losses with another `loss` and `count`, and with `terms`, the count without weights.

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

"""A step of training: by gradients and an optimizer, or in closed form."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from selfsup.cost import step_flops
from selfsup.data.draw import Draw
from selfsup.data.reader import Batch
from selfsup.data.weights import WEIGHT
from selfsup.errors import UserError
from selfsup.fields import chunk_flags
from selfsup.layer_decay import layer_scales
from selfsup.nn.norm import has_batch_statistics
from selfsup.objective import ClosedForm, Losses, Objective
from selfsup.ops.weighting import weighted
from selfsup.optim import make_optimizers, set_rates
from selfsup.recipes import Recipe
from selfsup.resolve import by_gradient
from selfsup.runtime import Runtime, scale_and_clip


class Steps(Protocol):
    """What the loop asks of a step; the losses first, then the change."""

    micro: int

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...

    def losses(self, batch: Batch, draw: Draw, factor: float) -> Losses:
        """The losses of a micro-batch, once its gradients, or its changes, are made."""
        ...

    def change(self, count: float, factor: float) -> dict[str, float]:
        """Change the weights by all gradients, `count` terms; returns metrics of the step."""
        ...

    def flops(self, batch: Batch, draw: Draw) -> int | None:
        """Operations for a micro-batch; None where they cannot be counted."""
        ...


class Backward:
    """Backpropagation, and an optimizer.

    Attributes:
        wrapped: the objective, under data parallelism where there are several processes.
        micro: micro-batches in a step of a process.
    """

    def __init__(self, objective: Objective, recipe: Recipe, runtime: Runtime) -> None:
        """Wrap the objective and make its optimizers.

        Raises:
            UserError: its batch cannot be split as asked.
        """
        chosen = by_gradient(recipe.optimizer)
        if chosen.batch == 1 and objective.couples_rows:
            raise UserError(
                f"--batch 1: {recipe.objective} compares the rows of a batch, and one has nothing to be told from; "
                "give 2 or more, such as --batch 64"
            )
        if chosen.micro > 1 and objective.couples_rows:
            relief = " or ".join(chunk_flags(recipe.config)) or "a smaller --batch"
            raise UserError(
                f"--micro {chosen.micro}: {recipe.objective} compares the rows of a batch; give {relief} in place of it"
            )
        if chosen.micro > 1 and has_batch_statistics(objective):
            raise UserError(
                f"--micro {chosen.micro}: batch norm in the network ties the rows of a batch together; drop --micro, "
                "or choose a network without batch statistics, such as --network vit_small_patch16_224"
            )
        self.objective, self.runtime, self.micro, self.clip = objective, runtime, chosen.micro, chosen.clip
        self.wrapped: nn.Module = runtime.wrap(objective)
        self.weights = [weight for weight in objective.parameters() if weight.requires_grad]
        scales = layer_scales(objective, [e.module for e in objective.encoders().values()], chosen.layer_decay)
        rates = chosen.rate, chosen.matrix_rate, chosen.decay, chosen.momentum, chosen.betas
        self.optimizers = make_optimizers(objective, chosen.optimizer, *rates, scales)

    def state(self) -> dict[str, Any]:
        """Of the optimizers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)

    def losses(self, batch: Batch, draw: Draw, factor: float) -> Losses:
        """The losses of a micro-batch; its gradients are added to those of the ones before it."""
        batch = self.runtime.move(batch)
        with self.runtime.autocast():
            losses = self.wrapped(batch, draw.to(self.runtime.device))
        if WEIGHT in batch and "terms" not in losses:  # which fused objectives weigh by parts
            losses = weighted(losses, batch[WEIGHT])
        (losses["loss"] * losses["count"]).backward()
        return losses

    def change(self, count: float, factor: float) -> dict[str, float]:
        """A step of the optimizers, unless the gradient is not finite; returns its norm."""
        # Data parallelism averages over processes; the count of all makes the mean of all terms of it.
        norm = scale_and_clip(self.weights, self.runtime.world / count, self.clip)
        if norm < float("inf"):
            set_rates(self.optimizers, factor)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return {"grad_norm": norm}

    def flops(self, batch: Batch, draw: Draw) -> int | None:
        """See `cost.step_flops`."""

        def losses() -> Tensor:
            with self.runtime.autocast():
                return self.objective(self.runtime.move(batch), draw.to(self.runtime.device))["loss"]

        return step_flops(self.objective, losses)


class Closed:
    """The objective changes its weights itself."""

    micro = 1

    def __init__(self, objective: ClosedForm, recipe: Recipe, runtime: Runtime) -> None:
        """Keep the objective where it is.

        Raises:
            UserError: there are several processes, or another precision than float32 was asked for.
        """
        if runtime.precision != "float32":
            raise UserError(
                f"--precision {runtime.precision}: {recipe.objective} computes in float32; drop --precision"
            )
        if runtime.world > 1:
            raise UserError(
                f"{recipe.objective} runs in one process; start it without accelerate or torchrun, it uses all cores"
            )
        self.objective, self.rate = objective, recipe.optimizer.rate

    def state(self) -> dict[str, Any]:
        """Nothing: the weights are all there is."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing to go back to."""

    def losses(self, batch: Batch, draw: Draw, factor: float) -> Losses:
        """The losses of a batch, which has changed the weights."""
        return self.objective.learn(batch, draw, self.rate * factor)

    def change(self, count: float, factor: float) -> dict[str, float]:
        """Nothing is left to do."""
        return {}

    def flops(self, batch: Batch, draw: Draw) -> None:
        """Not counted: the kernel is none of torch's."""


def steps_of(objective: Objective, recipe: Recipe, runtime: Runtime) -> Steps:
    """How this objective is trained."""
    kind = Closed if isinstance(objective, ClosedForm) else Backward
    return kind(objective, recipe, runtime)  # type: ignore[arg-type]

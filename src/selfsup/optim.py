"""Optimizers, and the plan that their rates follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a run and the rate in each: warm-up, then a cosine, a line, or a plateau that ends in a line.

    Attributes:
        start: step at which this plan begins; above 0 for a run that was given more.
        stop: step before which it ends.
        warmup: steps in which the rate rises from 0.
        cooldown: steps in which a trapezoid falls to 0.
        schedule: shape of the fall.
    """

    start: int
    stop: int
    warmup: int
    cooldown: int
    schedule: Literal["cosine", "linear", "trapezoid"]

    def factor(self, step: int) -> float:
        """Rate of a step as a share of the peak."""
        done, total = step - self.start, self.stop - self.start
        if done < self.warmup:
            return (done + 1) / self.warmup
        if self.schedule == "trapezoid":
            return min(1.0, (total - done) / max(self.cooldown, 1))
        falling = (done - self.warmup) / max(total - self.warmup, 1)
        return 1 - falling if self.schedule == "linear" else (1 + math.cos(math.pi * falling)) / 2

    @property
    def flat_until(self) -> int:
        """Step at which a trapezoid begins to fall."""
        return self.stop - self.cooldown

    @property
    def landmarks(self) -> set[int]:
        """Steps whose checkpoints are kept: a longer run starts where a trapezoid begins to fall."""
        return {self.flat_until} if self.schedule == "trapezoid" else set()


class Lars(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled to the norm of each matrix (You, Gitman, Ginsburg 2017, algorithm 1)."""

    def __init__(self, groups: Iterable[dict], momentum: float, trust: float = 1e-3) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                change = weight.grad.add(weight, alpha=group["weight_decay"])
                if weight.ndim > 1:
                    norm, size = weight.norm(), change.norm()
                    ratio = torch.where((norm > 0) & (size > 0), group["trust"] * norm / size, torch.ones_like(norm))
                    change = change * ratio
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(change)
                weight.add_(state["momentum"], alpha=-group["lr"])


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, nearly: quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon").

    Args:
        matrices: (N, rows, columns).
        steps: iterations; after five all singular values lie between about 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: for hidden matrices and convolutions (as matrices of out x rest).

    Jordan et al. 2024; the step is scaled by sqrt(max(1, out / in)), Nesterov momentum. Weights of one shape go
    together, as one batched product. A group whose matrices are in x out, as GPT-2's, says so by `transposed`.
    """

    def __init__(self, groups: Iterable[dict], momentum: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum, "transposed": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every weight that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    alike.setdefault(weight.shape, []).append(weight)
            for shape, weights in alike.items():
                gradients = [weight.grad for weight in weights if weight.grad is not None]
                for weight in weights:
                    if not self.state[weight]:
                        self.state[weight]["momentum"] = torch.zeros_like(weight)
                averages = [self.state[weight]["momentum"] for weight in weights]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                directions = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"])).flatten(2)
                rows, columns = directions.shape[:0:-1] if group["transposed"] else directions.shape[1:]
                changes = orthogonal(directions).reshape(len(weights), *shape)
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                step = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(weights, list(changes), alpha=-step)


def _hidden_matrices(module: nn.Module) -> set[int]:
    """Ids of matrices and convolutions: no vectors, no embeddings, nothing tied to one, no head over a vocabulary."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    heads = [part.get_output_embeddings() for part in module.modules() if isinstance(part, PreTrainedModel)]
    tables |= {id(head.weight) for head in heads if head is not None}
    matrices = {id(weight) for weight in module.parameters() if weight.ndim in (2, 4)}
    return matrices - tables


def make_optimizers(
    module: nn.Module,
    name: Literal["adamw", "sgd", "lars", "muon"],
    rate: float,
    matrix_rate: float,
    decay: float,
    momentum: float,
    betas: tuple[float, float],
    scales: Mapping[int, float] = MappingProxyType({}),
) -> list[torch.optim.Optimizer]:
    """The optimizers of a module's trainable weights; vectors (norms, biases) are never decayed.

    Each group holds its peak rate as `peak`, for `set_rates`; of a weight whose id is in `scales` it is so much of it.
    """
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    hidden = _hidden_matrices(module) if name == "muon" else set()

    def groups(chosen: list[nn.Parameter], peak: float) -> list[dict]:
        split: dict[tuple[float, float], list[nn.Parameter]] = {}
        for weight in chosen:
            split.setdefault((scales.get(id(weight), 1.0), decay if weight.ndim > 1 else 0.0), []).append(weight)
        return [
            {"params": part, "weight_decay": falling, "peak": peak * scale, "lr": peak * scale}
            for (scale, falling), part in sorted(split.items(), key=lambda item: (-item[0][0], -item[0][1]))
        ]

    rest = groups([weight for weight in weights if id(weight) not in hidden], rate)
    if name == "sgd":
        return [torch.optim.SGD(rest, lr=rate, momentum=momentum)]
    if name == "lars":
        return [Lars(rest, momentum)]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=rate, betas=betas, fused=True)] if rest else []
    if hidden:
        turned = {id(part.weight) for part in module.modules() if isinstance(part, Conv1D)}
        parts = []
        for transposed in (False, True):
            chosen = [weight for weight in weights if id(weight) in hidden and (id(weight) in turned) == transposed]
            parts += [{**group, "transposed": transposed} for group in groups(chosen, matrix_rate)]
        found.append(Muon(parts, momentum))
    return found


def set_rates(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group to a share of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def step_size(optimizers: list[torch.optim.Optimizer], gradient_norm: float) -> float:
    """How far a step at the peak rate moves all matrices, as a share of their norm as they are.

    AdamW moves every weight by about its rate, Muon every direction of a matrix, LARS a matrix by a share of its norm;
    SGD goes by the norm of the gradient.
    """
    moved = size = 0.0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            lasting = 1 / max(1 - group.get("momentum", 0.0), 1e-3)  # momentum adds so many steps up
            for weight in (weight for weight in group["params"] if weight.ndim > 1):
                norm = float(weight.detach().norm())
                if isinstance(optimizer, Muon):
                    out = weight.shape[1] if group["transposed"] else len(weight)
                    step = out**0.5  # norm of sqrt(max(1, out / in)) times an orthogonal matrix
                elif isinstance(optimizer, Lars):
                    step = group["trust"] * norm * lasting
                else:
                    step = weight.numel() ** 0.5 if isinstance(optimizer, torch.optim.AdamW) else 0.0
                moved, size = moved + (group["peak"] * step) ** 2, size + norm**2
            if isinstance(optimizer, torch.optim.SGD):
                moved += (group["peak"] * gradient_norm * lasting) ** 2 / len(optimizer.param_groups)
    return (moved / size) ** 0.5 if size else 0.0

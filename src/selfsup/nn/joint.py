"""Two networks whose vectors are brought into one space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.ops.precision import at_least_float32


class Projection(nn.Linear):
    """(B, D) vectors of a network to (B, out) of length 1: a matrix, and no bias (Radford et al. 2021, figure 3).

    Args:
        width: D.
        out: numbers in a vector of the space that both networks share.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)
        nn.init.normal_(self.weight, std=width**-0.5)  # the authors' code

    def forward(self, input: Tensor) -> Tensor:
        """At least float32."""
        return F.normalize(at_least_float32(super().forward(input)), dim=-1)


class Projected(nn.Module):
    """A network of pictures with its projection.

    Args:
        tower: (B, C, S, S) to (B, D).
        projection: (B, D) to (B, out).
    """

    def __init__(self, tower: nn.Module, projection: Projection) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, out) of length 1."""
        return self.projection(self.tower(pictures))

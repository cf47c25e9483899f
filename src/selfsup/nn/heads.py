"""Small networks between an encoder and a loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.ops.precision import at_least_float32


def projection(width: int, hidden: int, out: int) -> nn.Sequential:
    """The projection g of SimCLR: (B, width) to (B, out), one hidden layer, batch norm after both matrices.

    The norm after the second matrix has no scale and shift, as in the authors' code; biases before a batch norm
    would do nothing.
    """
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out, bias=False),
        nn.BatchNorm1d(out, affine=False),
    )


class PuzzleHead(nn.Module):
    """From the vectors of the tiles of a puzzle to the logits of their order (Noroozi and Favaro 2016, figure 3).

    Each tile gets a narrow layer of the same weights; a hidden layer sees them side by side.

    Args:
        width: D of a tile's vector.
        tiles: T.
        hidden: width of the hidden layer.
        out: number of orders.
    """

    def __init__(self, width: int, tiles: int, hidden: int, out: int, narrow: int = 128) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(inplace=True))
        self.together = nn.Sequential(nn.Linear(tiles * narrow, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, T, D) to (B, out)."""
        return self.together(self.each(vectors).flatten(1))


class PrototypeHead(nn.Module):
    """The head of DINO: three layers, and cosines with prototypes (Caron et al. 2021, section 3.1 and appendix C).

    Args:
        width: D of the vectors.
        hidden: width of the two hidden layers.
        bottleneck: width of the vectors that are compared with the prototypes.
        prototypes: K.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)  # only their directions count
        for part in self.layers:
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=part.in_features**-0.5)
                nn.init.zeros_(part.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) to (N, K) cosines."""
        z = F.normalize(at_least_float32(self.layers(vectors)), dim=-1)
        return z @ F.normalize(at_least_float32(self.prototypes.weight), dim=-1).T

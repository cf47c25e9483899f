"""Small networks between an encoder and a loss."""

from __future__ import annotations

from torch import Tensor, nn


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

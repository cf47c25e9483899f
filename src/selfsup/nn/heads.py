"""Small networks between an encoder and a loss."""

from __future__ import annotations

from torch import nn


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

"""Pictures as rows of patches, and back."""

from __future__ import annotations

from torch import Tensor


def patchify(pictures: Tensor, edge: int) -> Tensor:
    """(B, C, H, W) to (B, N, edge * edge * C): patches row by row, of each its pixels row by row, channels last."""
    rows, channels, height, width = pictures.shape
    cut = pictures.reshape(rows, channels, height // edge, edge, width // edge, edge)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(rows, -1, edge * edge * channels)


def unpatchify(patches: Tensor, edge: int, height: int) -> Tensor:
    """The inverse of `patchify`: (B, N, edge * edge * C) to (B, C, H, W), H given in pixels."""
    rows, count, numbers = patches.shape
    down = height // edge
    cut = patches.reshape(rows, down, count // down, edge, edge, numbers // edge**2)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(rows, -1, height, count // down * edge)


def standardized(patches: Tensor) -> Tensor:
    """Each patch (..., P) with mean 0 and variance 1, 1e-6 added to the variance (He et al. 2022, section 4.1)."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6) ** 0.5


def rows_of(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) and (B, K) to the (B, K, D) of these places."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

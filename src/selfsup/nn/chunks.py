"""A pass over a large batch in flat memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[[int, int], Tensor], rows: int, chunk: int | None) -> Tensor:
    """The features of all rows, made chunk by chunk; activations are made again in the backward pass.

    This is gradient caching (Gao et al. 2021) with exact replay: the generator's state is restored for each chunk,
    so dropout falls alike both times.

    Args:
        encode: features of the rows from `start` to before `stop`, rows in the first dimension.
        rows: number of rows.
        chunk: rows at once; None for all, without a second pass.
    """
    if chunk is None or chunk >= rows:
        return encode(0, rows)
    parts = [
        checkpoint(encode, start, min(start + chunk, rows), use_reentrant=False) for start in range(0, rows, chunk)
    ]
    return torch.cat(parts)  # type: ignore[arg-type]

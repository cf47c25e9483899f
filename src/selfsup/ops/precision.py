"""The precision in which losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> torch.autocast:
    """The context in which products are made in the precision of their factors, also inside the network's autocast."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` without half precision, which is too coarse for logits; float64 stays, so that a check in float64 is one."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

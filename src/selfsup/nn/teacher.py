"""A network that follows another one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every weight of the teacher to `momentum * teacher + (1 - momentum) * student`, all in one call."""
    slow = tuple[Tensor, ...](teacher.parameters())
    fast = tuple[Tensor, ...](student.parameters())
    torch._foreach_lerp_(slow, fast, 1 - momentum)

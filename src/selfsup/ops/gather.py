"""Tensors of all processes, with gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is the sum of what every process asks of each slice."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(local: Tensor) -> Tensor:
    """(B, ...) of this process to (W * B, ...) of all, in order of rank; equal B everywhere. Carries gradients.

    A loss that every process computes on its own anchors has, summed over the processes, the gradient of the
    undivided loss.
    """
    return local if processes()[1] == 1 else _Gather.apply(local)  # type: ignore[return-value]


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is summed likewise."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def sum_over_processes(local: Tensor) -> Tensor:
    """The sum of a tensor over all processes. Carries gradients."""
    return local if processes()[1] == 1 else _Sum.apply(local)  # type: ignore[return-value]

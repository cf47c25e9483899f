"""Batch norm over the rows of all processes, on CPU and GPU."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from selfsup.errors import UserError
from selfsup.ops.gather import processes, sum_over_processes
from selfsup.ops.precision import at_least_float32


def _all_process_forward(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Batch norm with mean and variance of all processes (torch's SyncBatchNorm refuses CPU tensors).

    Sums are made in float32 at least, as torch's own batch norm makes them.
    """
    given, x = x.dtype, at_least_float32(x)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = x.numel() // x.shape[1]
    ones = torch.full((1,), float(count), dtype=x.dtype, device=x.device)
    total = sum_over_processes(torch.cat([x.sum(dims), ones]))  # (C + 1,): one message for sum and count
    size = total[-1]
    mean = total[:-1] / size
    centered = x - mean.view(shape)
    variance = sum_over_processes(centered.square().sum(dims)) / size
    if norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            seen = cast(Tensor, norm.num_batches_tracked).add_(1)
            momentum = norm.momentum if norm.momentum is not None else 1 / float(seen)
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean.dtype), momentum)
            unbiased = (variance * size / (size - 1)).detach()
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    out = centered * torch.rsqrt(variance + norm.eps).view(shape)
    return (out if norm.weight is None else out * norm.weight.view(shape) + norm.bias.view(shape)).to(given)


class AllProcessNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C) or (B, C, L)."""
        return _all_process_forward(self, input) if self.training and processes()[1] > 1 else super().forward(input)


class AllProcessNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the rows of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W)."""
        return _all_process_forward(self, input) if self.training and processes()[1] > 1 else super().forward(input)


def over_all_processes(module: nn.Module) -> None:
    """Replace every batch norm in place by one over all processes, sharing weights and statistics.

    Raises:
        UserError: a batch norm of a kind that has no such twin.
    """
    twins = {nn.BatchNorm1d: AllProcessNorm1d, nn.BatchNorm2d: AllProcessNorm2d}
    for parent in module.modules():
        for name, child in parent.named_children():
            if not isinstance(child, nn.modules.batchnorm._BatchNorm) or isinstance(child, tuple(twins.values())):
                continue
            if type(child) not in twins:
                raise UserError(
                    f"{type(child).__name__} has no form over several processes; "
                    "train on one, or choose another network"
                )
            twin = twins[type(child)](
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            twin.__dict__["_parameters"].update(child._parameters)
            twin.__dict__["_buffers"].update(child._buffers)
            twin.training = child.training
            setattr(parent, name, twin)


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether the output for a row depends on the other rows of its batch in training."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())

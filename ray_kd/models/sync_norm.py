"""BatchNorm over the global batch, on any device and backend.

torch.nn.SyncBatchNorm works on GPUs alone; on CPUs (gloo) the sums are reduced here. With it, two
ranks and one rank with the same global batch give the same update, up to float order.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced too: each rank's loss depends on every rank's input."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose batch statistics are those of all ranks together."""

    def _check_input_dim(self, input: Tensor) -> None:
        return None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = input.numel() / input.shape[1]
        sums = torch.cat([input.sum(dims), input.square().sum(dims), input.new_tensor([count])])
        sums = _SumOverRanks.apply(sums)  # type: ignore[no-untyped-call]
        total = sums[-1].detach()
        mean, square = sums[:-1].div(total).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = 0.1 if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (total / (total - 1)), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        scaled = (input - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if not self.affine:
            return scaled
        return scaled * self.weight.view(shape) + self.bias.view(shape)


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """Every BatchNorm of a module made to normalise over all ranks; state_dict keys stay the same.

    Each stays the object that it is, so that a tap on it stays too.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if device.type != "cuda":
                part.__class__ = CpuSyncBatchNorm
            elif not isinstance(part, nn.SyncBatchNorm):
                part.__class__ = nn.SyncBatchNorm
                cast(nn.SyncBatchNorm, part).process_group = None
    return module

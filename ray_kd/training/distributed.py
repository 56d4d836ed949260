"""Communication between ranks. With one rank, all functions return their argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault


def average(values: Tensor, world: int) -> Tensor:
    """The mean over ranks of a tensor, in place."""
    if world > 1:
        dist.all_reduce(values)
        values /= world
    return values


def reduce_losses(losses: Sequence[Tensor], world: int) -> list[Tensor]:
    """Losses whose value is the mean over ranks and whose gradient is this rank's own.

    Aggregators then choose the same weights on every rank, to the last bit; averaging the gradients
    afterwards gives exactly the gradient of that choice on the global batch. The losses' graphs stay
    separate: each loss's own dependencies can be found, and its backward visits no other loss's graph.
    """
    if world == 1:
        return list(losses)
    means = average(torch.stack([loss.detach() for loss in losses]), world)
    return [_Valued.apply(loss, mean) for loss, mean in zip(losses, means.unbind(), strict=True)]


class _Valued(torch.autograd.Function):
    """A loss with another value and its own gradient."""

    @staticmethod
    def forward(context: Any, loss: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def average_gradients(parameters: Sequence[Tensor], world: int) -> None:
    """Average ``.grad`` over ranks in one all-reduce; a missing gradient on a rank counts as 0."""
    if world == 1 or not parameters:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]), world)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agree(stop: bool, error: UserError | None, world: int, device: torch.device) -> bool:
    """Whether any rank was asked to stop, so that all ranks stop at the same step.

    Raises:
        UserError: one rank met an error (such as rank 0 a full disk); all ranks raise it, so that none waits
            for a rank that has ended.
    """
    if world > 1:
        told = torch.tensor([float(stop), float(error is not None)], device=device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        stop, failed = told.bool().tolist()
        if failed:
            mine = None if error is None else (str(error), isinstance(error, EnvironmentFault))
            text, machine = next(one for one in gather_objects(mine, world) if one is not None)
            raise error or (EnvironmentFault(text) if machine else UserError(text))
    if error is not None:
        raise error
    return stop


def add_up(sums: dict[str, Tensor], world: int, device: torch.device) -> dict[str, Tensor]:
    """Tensors summed over ranks, entry by entry, as float64 on the CPU; names and shapes are the same."""
    flat = torch.cat([value.to(device, torch.float64).flatten() for value in sums.values()])
    if world > 1:
        dist.all_reduce(flat)
    parts = flat.cpu().split([value.numel() for value in sums.values()])
    return {name: part.view(sums[name].shape) for name, part in zip(sums, parts, strict=True)}


def gather_objects(value: Any, world: int) -> list[Any]:
    """Every rank's picklable object, in the order of ranks, on all of them."""
    if world == 1:
        return [value]
    found: list[Any] = [None] * world
    dist.all_gather_object(found, value)
    return found


def broadcast_object(value: object, world: int) -> object:
    """Rank 0's picklable object on every rank."""
    if world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]

"""Gather all ranks' samples on every rank, with gradients, for relational paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_group: ContextVar[Any] = ContextVar("ray_kd_gather_group", default=None)


@contextmanager
def gathering_over(group: Any) -> Iterator[None]:
    """Within the block, samples are gathered over ``group`` instead of all ranks."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def all_rows(values: Tensor) -> Tensor:
    """The rows of every rank, rank after rank; ``values`` itself with one rank.

    Every rank must call this, with rows of the same shape and number. Gradients are correct if every rank
    computes the same loss from the gathered rows and gradients are averaged over ranks afterwards, as
    relational paths and the training loop do; the backward then needs no communication.

    Args:
        values: (N, ...) of this rank.

    Returns:
        (world * N, ...).
    """
    group = _ranks()
    if group is None:
        return values
    return _AllRows.apply(values, group)  # type: ignore[no-untyped-call, no-any-return]


def normaliser(count: Tensor) -> Tensor:
    """The divisor of a rank's sum with which the mean over ranks is the global sum over the global count.

    Args:
        count: this rank's valid pixels or positive boxes, or the sum of their weights; every rank must
            call this.

    Returns:
        Without gradient, in float32 at least: the count over all ranks, at least 1, divided by the
        number of ranks.
    """
    group = _ranks()
    total = count.detach().to(torch.promote_types(count.dtype, torch.float32), copy=True)
    if group is None:
        return total.clamp_min(1)
    group.allreduce([total]).wait()
    return total.clamp_min(1) / group.size()


def own_rows(values: Tensor) -> Tensor:
    """This rank's share of rows that ``all_rows`` gathered."""
    group = _ranks()
    if group is None:
        return values
    return values.chunk(group.size())[group.rank()]


def _ranks() -> Any:
    group = _group.get()
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    return group if group is not None and group.size() > 1 else None


class _AllRows(torch.autograd.Function):
    """Concatenation over ranks.

    The loss is the same on all W ranks, so the sum over ranks of its gradient with respect to this rank's
    rows is W times the gradient that this rank computes; averaging over ranks divides by W.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, group: Any) -> Tensor:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(group.size())]
        group.allgather([parts], [values]).wait()
        context.rank, context.world = group.rank(), group.size()
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].chunk(context.world)[context.rank] * context.world, None

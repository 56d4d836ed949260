"""Which samples make up each step: a permutation that is a pure function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.training import Order
from ray_kd.random_streams import generator


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Full batches in an epoch; the rest of a permutation is left for another epoch."""
    if samples < batch_size:
        raise UserError(
            f"training.batch_size: {batch_size} is more than the {samples} training samples there are; "
            f"expected at most {samples}."
        )
    return samples // batch_size


def shuffled(samples: int, seed: int, epoch: int, order: Order | None = None) -> Tensor:
    """All sample indices in the order of an epoch; with ``order`` a window of blocks after the other."""
    draw = generator(seed, "order", epoch)
    if order is None:
        return torch.randperm(samples, generator=draw)
    blocks = torch.arange(samples).split(order.block)
    drawn = [blocks[number] for number in torch.randperm(len(blocks), generator=draw).tolist()]
    windows = [torch.cat(drawn[at : at + order.window]) for at in range(0, len(drawn), order.window)]
    return torch.cat([window[torch.randperm(len(window), generator=draw)] for window in windows])


def epoch_order(
    samples: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    order: Order | None = None,
) -> Tensor:
    """The sample indices of one rank for one epoch, (steps, batch_size / world).

    The global batch is the same for any number of ranks; each rank has an equal share of it.
    """
    steps = steps_per_epoch(samples, batch_size)
    batches = shuffled(samples, seed, epoch, order)[: steps * batch_size].view(steps, batch_size)
    return batches[:, rank::world].contiguous()

"""The batches of an epoch, as one rank sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ray_kd.data.base import Split, TensorSplit
from ray_kd.data.order import epoch_order, steps_per_epoch
from ray_kd.data.views import Views

CHUNK = 2048
"""Samples whose views are drawn at once where the set lies in memory: one call instead of one a step."""

PIXELS = 1 << 23
"""Numbers in the images of one evaluation batch at most."""


class Batches:
    """Training batches: {image, label, sample, view}, the same for any number of ranks taken together.

    Args:
        split: the training split.
        views: the view policy.
        batch_size: samples in one step over all ranks.
        seed: the run's seed, key of the order.
        device: where batches go.
        rank, world: which share of each global batch is this rank's.

    Raises:
        UserError: fewer samples than one batch.
    """

    def __init__(
        self,
        split: Split,
        views: Views,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split, self.views, self.batch_size, self.seed = split, views, batch_size, seed
        self.device, self.rank, self.world = device, rank, world
        self.steps = steps_per_epoch(len(split), batch_size)
        self._at_once = 1
        if isinstance(split, TensorSplit):
            chunk = min(CHUNK, PIXELS // max(1, split.images[0].numel()))
            self._at_once = max(1, chunk * world // batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch (0-based) from step ``start`` on."""
        order = epoch_order(len(self.split), self.batch_size, self.seed, epoch, self.rank, self.world)
        view = self.views.of_epoch(epoch)
        for first in range(start, self.steps, self._at_once):
            index = order[first : first + self._at_once]
            many = self.split.gather(index.flatten())
            many = {name: value.to(self.device, non_blocking=True) for name, value in many.items()}
            many = self.views(many, view, self.split)
            many["view"] = torch.full_like(many["sample"], view)
            for step in zip(*(value.split(index.shape[1]) for value in many.values()), strict=True):
                yield dict(zip(many, step, strict=True))

    def before(self, epoch: int, start: int) -> dict[str, Tensor]:
        """The batch that precedes step ``start`` of an epoch (0-based); there has to be one."""
        earlier = (epoch, start - 1) if start else (epoch - 1, self.steps - 1)
        return next(self.epoch(*earlier))


def in_order(
    split: Split, device: torch.device, rank: int = 0, world: int = 1, size: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """A whole split in its own order without views, for evaluation; this rank's share of it.

    Args:
        size: samples in a batch; None: as many as make ``PIXELS`` numbers, 512 at most.
    """
    index = torch.arange(rank, len(split), world)
    if size is None and len(index):
        size = max(1, min(512, PIXELS // split.gather(index[:1])["image"].numel()))
    for part in index.split(size or 1):
        yield {name: value.to(device) for name, value in split.gather(part).items()}

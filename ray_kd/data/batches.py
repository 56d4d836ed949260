"""The batches of an epoch, as one rank sees them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ray_kd.data.base import Split, TensorSplit
from ray_kd.data.loading import Loader, Request
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
        loader: what reads ``split``; None: one that reads it here.

    Raises:
        UserError: fewer samples than one batch, or views that cannot act on this split.
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
        loader: Loader | None = None,
    ) -> None:
        self.split, self.views, self.batch_size, self.seed = split, views, batch_size, seed
        self.device, self.rank, self.world = device, rank, world
        self.steps = steps_per_epoch(len(split), batch_size)
        self.loader = loader or Loader({"train": split}, views, device)
        self._name = self.loader.name_of(split) or "train"
        self._at_once = 1
        if isinstance(split, TensorSplit):
            chunk = min(CHUNK, PIXELS // max(1, split.images[0].numel()))
            self._at_once = max(1, chunk * world // batch_size)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch (0-based) from step ``start`` on, up to step ``stop``."""
        order = epoch_order(len(self.split), self.batch_size, self.seed, epoch, self.rank, self.world)
        view = self.views.of_epoch(epoch)
        raw_view = view if self.views.per_sample else None
        parts = order[start:stop].split(self._at_once)
        for many in self.loader(Request(self._name, part.flatten(), raw_view) for part in parts):
            shown = dict(many) if self.views.per_sample else self.views(many, view, self.split)
            shown["view"] = torch.full_like(shown["sample"], view)
            for step in zip(*(value.split(order.shape[1]) for value in shown.values()), strict=True):
                yield dict(zip(shown, step, strict=True))

    def before(self, epoch: int, start: int) -> dict[str, Tensor]:
        """The batch that precedes step ``start`` of an epoch (0-based); there has to be one."""
        epoch, step = (epoch, start - 1) if start else (epoch - 1, self.steps - 1)
        return next(self.epoch(epoch, step, step + 1))


def in_order(
    split: Split,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    size: int | None = None,
    loader: Loader | None = None,
) -> Iterator[dict[str, Tensor]]:
    """A whole split in its own order without views, for evaluation; this rank's share of it.

    Args:
        size: samples in a batch; None: as many as make ``PIXELS`` numbers, 512 at most.
        loader: what reads it, if it knows this split.
    """
    index = torch.arange(rank, len(split), world)
    if size is None and len(index):
        size = max(1, min(512, PIXELS // split.gather(index[:1])["image"].numel()))
    parts, name = index.split(size or 1), None if loader is None else loader.name_of(split)
    if loader is not None and name is not None:
        yield from loader(Request(name, part) for part in parts)
        return
    for part in parts:
        yield {name: value.to(device) for name, value in split.gather(part).items()}

"""The batches of an epoch, as one rank sees them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from ray_kd.config.training import Order
from ray_kd.data.base import Split, TensorSplit
from ray_kd.data.loading import CARRIED, Loader, Request
from ray_kd.data.order import epoch_order, steps_per_epoch
from ray_kd.data.views import Views

CHUNK = 2048
"""Samples whose views are drawn at once where the set lies in memory: one call instead of one a step."""

PIXELS = 1 << 23
"""Numbers in the images of one evaluation batch at most."""

CARRIED_BYTES = 1 << 23
"""Bytes of targets that travel with the samples read at once, about."""


class Batches:
    """Training batches: {image, label, sample, view}, the same for any number of ranks taken together.

    Args:
        batch_size: samples in one step over all ranks.
        rank, world: which share of each global batch is this rank's.
        loader: what reads ``split``; None: one that reads it here.
        order: how samples are shuffled; None: all of them.

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
        order: Order | None = None,
    ) -> None:
        self.split, self.views, self.batch_size, self.seed = split, views, batch_size, seed
        self.device, self.rank, self.world, self.order = device, rank, world, order
        self.steps = steps_per_epoch(len(split), batch_size)
        self.loader = loader or Loader({"train": split}, views, device)
        self._name = self.loader.name_of(split) or "train"
        self._at_once = 1
        if isinstance(split, TensorSplit):
            carried = CARRIED_BYTES // max(1, self.loader.carries)
            chunk = min(CHUNK, PIXELS // max(1, split.images[0].numel()), carried)
            self._at_once = max(1, chunk * world // batch_size)

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch (0-based) from step ``start`` on, up to step ``stop``."""
        view, size = self.views.of_epoch(epoch), self.batch_size // self.world
        for many in self.loader(self.requests(epoch, start, stop)):
            carried = {name: value for name, value in many.items() if name.startswith(CARRIED)}
            own = {name: value for name, value in many.items() if name not in carried}
            shown = own if self.views.per_sample else self.views(own, view, self.split)
            shown = {**shown, **carried, "view": torch.full_like(shown["sample"], view)}
            for step in zip(*(value.split(size) for value in shown.values()), strict=True):
                yield dict(zip(shown, step, strict=True))

    def requests(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Request]:
        """What the loader is asked for the same batches."""
        order = epoch_order(
            len(self.split), self.batch_size, self.seed, epoch, self.rank, self.world, self.order
        )
        view = self.views.of_epoch(epoch)
        for part in order[start:stop].split(self._at_once):
            yield Request(self._name, part.flatten(), view if self.views.per_sample else None, view)

    def announce(self, epoch: int, start: int, epochs: int) -> None:
        """Tell the loader what it will be asked for: from a step of an epoch (0-based) to the last epoch."""
        every = (self.requests(e, start if e == epoch else 0) for e in range(epoch, epochs))
        self.loader.announce(chain.from_iterable(every))

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

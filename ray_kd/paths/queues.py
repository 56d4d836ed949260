"""A bounded memory of embeddings: the most recent ones of each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ray_kd.outputs import IGNORE


class Queues(nn.Module):
    """A ring of embeddings for each class, all of them in one table of fixed size.

    The number of classes is known from the first embeddings: class k of K has the rows k R // K ..
    (k + 1) R // K - 1 of R, up to the size of the smallest ring.

    Args:
        rows: of the table, R.
        dimensions: of an embedding.
    """

    table: Tensor
    written: Tensor

    def __init__(self, rows: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(rows, dimensions))
        self.register_buffer("written", torch.zeros(IGNORE, dtype=torch.long))

    @torch.no_grad()
    def push(self, values: Tensor, classes: Tensor, count: int) -> None:
        """Add embeddings (M, D) of classes (M,), 0 .. count - 1; later rows are newer."""
        size = len(self.table) // count
        order = classes.argsort(stable=True)
        values, classes = values[order], classes[order]
        place = place_in_run(classes)
        pushed = torch.bincount(classes, minlength=count)
        newest = place >= pushed[classes] - size
        slot = classes * size + (self.written[classes] + place) % size
        self.table.index_copy_(0, slot[newest], values[newest].to(self.table.dtype))
        self.written[:count] += pushed

    def filled(self, count: int) -> Tensor:
        """The remembered embeddings (M, D), class after class."""
        size = len(self.table) // count
        there = torch.arange(size, device=self.table.device) < self.written[:count, None]
        return self.table[: count * size][there.flatten()]


def place_in_run(ordered: Tensor) -> Tensor:
    """For each entry of sorted numbers (M,), how many equal ones precede it."""
    return torch.arange(len(ordered), device=ordered.device) - torch.searchsorted(ordered, ordered)


def regions_and_pixels(
    maps: Tensor, classes: Tensor, count: int, most: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The embeddings that a memory adds from maps (N, C, H, W) with classes (N, H, W).

    Returns:
        The mean embedding of each class in each image, and at most ``most`` pixels of each class in each
        image, evenly spaced; embeddings (M, C) with their classes (M,), image after image.
    """
    known = (classes != IGNORE).flatten()
    image = torch.arange(len(maps), device=maps.device).repeat_interleave(classes[0].numel())[known]
    rows, labels = maps.movedim(1, -1).flatten(0, 2)[known], classes.flatten()[known]
    group, order = (image * count + labels).sort(stable=True)
    rows = rows[order]
    groups, sizes = group.unique_consecutive(return_counts=True)
    member = torch.arange(len(groups), device=maps.device).repeat_interleave(sizes)
    sums = rows.new_zeros(len(groups), rows.shape[1]).index_add_(0, member, rows)
    place, size = place_in_run(group), sizes[member]
    chosen = (place * most // size != (place - 1) * most // size) | (size <= most)
    return (sums / sizes.unsqueeze(1), groups % count), (rows[chosen], group[chosen] % count)

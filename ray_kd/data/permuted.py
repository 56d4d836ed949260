"""Labels dealt out anew: what is learnt from them is not true. For teachers that are wrong on purpose."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.data.base import Split, TensorSplit
from ray_kd.streams import generator


class _Permuted:
    """A split whose samples have each other's labels (masks, boxes)."""

    def __init__(self, split: Split, order: Tensor) -> None:
        self.split, self.order, self.ids = split, order, split.ids

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        other = self.split.gather(self.order[index.cpu()])
        own = self.split.gather(index)
        return {**other, "image": own["image"], "sample": own["sample"]}


def permuted_labels(split: Split, seed: int) -> Split:
    """The same samples with their labels permuted, once and for all epochs (Zhang et al., ICLR 2017).

    The permutation is drawn from a stream of its own, keyed by ``seed``; classes keep their shares.
    """
    order = torch.randperm(len(split), generator=generator(seed, "permuted labels"))
    if isinstance(split, TensorSplit):
        return split.exchange(order)
    return _Permuted(split, order)

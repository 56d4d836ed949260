"""Labels dealt out anew: what is learnt from them is not true. For teachers that are wrong on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ray_kd.data.base import RawSplit, Split, TensorSplit, is_raw
from ray_kd.data.files import gather_raw
from ray_kd.random_streams import generator


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


class _PermutedRaw(_Permuted):
    """The same of files."""

    split: RawSplit

    def __init__(self, split: RawSplit, order: Tensor) -> None:
        super().__init__(split, order)
        self.size, self.fit, self.finish, self.ready = split.size, split.fit, split.finish, split.ready

    def raw(self, index: int) -> dict[str, Any]:
        own, other = self.split.raw(index)["image"], self.split.raw(int(self.order[index]))
        if own.shape != other["image"].shape and "label" not in other:
            from torchvision.transforms.v2 import functional as V

            own = V.resize(own, list(other["image"].shape[-2:]), antialias=True)  # masks and boxes must fit
        return {**other, "image": own}

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return gather_raw(self, index)


def permuted_labels(split: Split, seed: int) -> Split:
    """The same samples with their labels permuted, once and for all epochs (Zhang et al., ICLR 2017).

    The permutation is drawn from a stream of its own, keyed by ``seed``; classes keep their shares.
    """
    order = torch.randperm(len(split), generator=generator(seed, "permuted labels"))
    if isinstance(split, TensorSplit):
        return split.exchange(order)
    return _PermutedRaw(split, order) if is_raw(split) else _Permuted(split, order)

"""Labels dealt out anew: what is learnt from them is not true. For teachers that are wrong on purpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ray_kd.data.base import RawSplit, Split, TensorSplit, is_raw
from ray_kd.data.files import stack
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

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of fitted images."""
        return self.split.size

    def raw(self, index: int) -> dict[str, Any]:
        own, other = self.split.raw(index)["image"], self.split.raw(int(self.order[index]))
        if own.shape != other["image"].shape and "label" not in other:
            from torchvision.transforms.v2 import functional as V

            own = V.resize(own, list(other["image"].shape[-2:]), antialias=True)  # masks and boxes must fit
        return {**other, "image": own}

    def fit(self, sample: dict[str, Any]) -> dict[str, Any]:
        return self.split.fit(sample)

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        return self.split.finish(sample)

    def ready(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.split.ready(rows)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        rows = stack([self.finish(self.fit(self.raw(i))) for i in index.tolist()])
        return {**self.ready(rows), "sample": self.ids[index.cpu()]}


def permuted_labels(split: Split, seed: int) -> Split:
    """The same samples with their labels permuted, once and for all epochs (Zhang et al., ICLR 2017).

    The permutation is drawn from a stream of its own, keyed by ``seed``; classes keep their shares.
    """
    order = torch.randperm(len(split), generator=generator(seed, "permuted labels"))
    if isinstance(split, TensorSplit):
        return split.exchange(order)
    return _PermutedRaw(split, order) if is_raw(split) else _Permuted(split, order)

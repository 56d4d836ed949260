"""What a dataset is: three splits, each of which gives the raw samples of any indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ray_kd.config.options import Options


class Split(Protocol):
    """One of train, validation, test.

    Attributes:
        ids: a number for each sample (N,), int64, unique over all splits of the dataset.
    """

    ids: Tensor

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """The raw samples at ``index`` (B,): image (B, C, H, W) float, label (B,), sample (B,) ids."""
        ...


class TensorSplit:
    """A split that lies in memory.

    Args:
        images: (N, C, H, W) float, normalised.
        labels: (N,) int64.
        ids: (N,) int64; default 0 .. N-1.
    """

    def __init__(self, images: Tensor, labels: Tensor, ids: Tensor | None = None) -> None:
        self.images, self.labels = images.contiguous(), labels
        self.ids = torch.arange(len(labels)) if ids is None else ids

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index], "sample": self.ids[index]}

    def to(self, device: torch.device) -> TensorSplit:
        """The same split on a device; sets this small stay resident there."""
        return TensorSplit(self.images.to(device), self.labels.to(device), self.ids.to(device))


class MapSplit:
    """A split over anyone's map-style dataset of (image tensor, label) pairs.

    Args:
        dataset: ``dataset[i]`` gives an image (C, H, W) and an integer label.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.ids = torch.arange(len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        pairs: Sequence[Any] = [self.dataset[i] for i in index.tolist()]
        images = torch.stack([torch.as_tensor(image) for image, _ in pairs])
        labels = torch.tensor([int(label) for _, label in pairs])
        return {"image": images, "label": labels, "sample": index.clone()}


class Dataset:
    """The base of registered datasets.

    Attributes:
        train, validation, test: the splits. Search, early stopping and the best epoch read validation;
            test is read once, at the end of a run.
        classes: how many classes there are.
        channels: channels of an image.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    Options: ClassVar[type[Options]]
    train: Split
    validation: Split
    test: Split
    classes: int
    channels: int

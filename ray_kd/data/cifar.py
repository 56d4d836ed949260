"""CIFAR-10 and CIFAR-100, in memory."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.beside import Folder
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.layout import RootOptions, fetch, require, wrong
from ray_kd.data.splits import hold_out


class CIFAROptions(RootOptions):
    """Options of both."""

    root: Folder
    """The folder that holds ``cifar-10-batches-py`` (``cifar-100-python``); no part of a run's identity."""
    download: bool = False
    """Fetch the set into ``root`` where it is missing."""


class CIFAR(Dataset):
    """What both have in common: 32x32 colour images, read by torchvision, which checks their MD5 sums."""

    tree: ClassVar[str]
    kind: ClassVar[str]
    """The class in ``torchvision.datasets``."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def image_shape(cls, options: Any) -> tuple[int, int, int] | None:
        return 3, 32, 32

    def __init__(self, options: Any) -> None:
        from torchvision import datasets

        made = getattr(datasets, self.kind)
        files = [name for name, _ in (*made.train_list, *made.test_list)] + [made.meta["filename"]]
        needed = [f"{made.base_folder}/{name}" for name in files]
        if options.download:
            fetch(self.name, options.root, needed, lambda: made(options.root, download=True))
        require(self.name, options.root, needed, self.tree, options.download)
        given = self._read(made, options, True)
        labels = np.array(given.targets)
        train, held = hold_out(
            labels, options.validation, options.labels, options.seed, self.name, options.label_seed
        )
        self.train = self._split(given, 0, train)
        self.test = self._split(self._read(made, options, False), len(labels))
        self.validation = self._split(given, 0, held) if options.validation else self.test
        self.classes, self.channels, self.class_names = len(given.classes), 3, tuple(given.classes)

    def _read(self, made: Any, options: Any, train: bool) -> Any:
        try:
            return made(options.root, train=train)
        except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            damaged = self._damaged(made, options.root)
            what = f"has a damaged file: {damaged}" if damaged else f"cannot be read ({error})"
            wrong(self.name, options.root, what, self.tree, options.download)

    def _damaged(self, made: Any, root: str) -> str | None:
        """The first file whose MD5 sum is not the published one."""
        from torchvision.datasets.utils import check_integrity

        known = [*made.train_list, *made.test_list, (made.meta["filename"], made.meta["md5"])]
        paths = ((Path(root, made.base_folder, name), md5) for name, md5 in known)
        return next((str(path) for path, md5 in paths if not check_integrity(str(path), md5)), None)

    def _split(self, given: Any, first: int, chosen: np.ndarray | None = None) -> TensorSplit:
        index = np.arange(len(given.targets)) if chosen is None else chosen
        images = torch.from_numpy(given.data[index]).permute(0, 3, 1, 2).float().div_(255)
        images.sub_(_channels(type(self).mean)).div_(_channels(type(self).std))
        return TensorSplit(
            images, torch.from_numpy(np.array(given.targets)[index]), torch.from_numpy(index + first)
        )


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


class CIFAR10Options(CIFAROptions):
    """Options of CIFAR-10."""


@DATASETS.register("cifar10", source="Krizhevsky, tech. report 2009")
class CIFAR10(CIFAR):
    """CIFAR-10: 50,000 training images, a stratified share of which validates, and 10,000 for the test.

    Normalised with the mean and standard deviation of its training images.

    Raises:
        UserError: files that are missing or damaged; names them.
    """

    Options = CIFAR10Options
    kind = "CIFAR10"
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    tree = """
cifar-10-batches-py/
  data_batch_1 ... data_batch_5
  test_batch
  batches.meta
"""


class CIFAR100Options(CIFAROptions):
    """Options of CIFAR-100."""


@DATASETS.register("cifar100", source="Krizhevsky, tech. report 2009")
class CIFAR100(CIFAR):
    """CIFAR-100 with its 100 fine classes; splits as CIFAR-10's.

    Normalised with the figures of Adaptive Distillation's published code (arXiv 2110.09674).
    """

    Options = CIFAR100Options
    kind = "CIFAR100"
    mean = (129.304 / 255, 124.070 / 255, 112.434 / 255)
    std = (68.170 / 255, 65.392 / 255, 70.418 / 255)
    tree = """
cifar-100-python/
  train
  test
  meta
"""

"""CIFAR-10 and CIFAR-100, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.beside import Folder
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.cifar_files import read_batch, read_names
from ray_kd.data.layout import RootOptions, fetch, require, wrong
from ray_kd.data.splits import hold_out
from ray_kd.models.pickles import DamagedError


class CIFAROptions(RootOptions):
    """Options of both."""

    root: Folder
    """The folder that holds ``cifar-10-batches-py`` (``cifar-100-python``); no part of a run's identity."""
    download: bool = False
    """Fetch the set into ``root`` where it is missing."""


class CIFAR(Dataset):
    """What both have in common: 32x32 colour images in files whose MD5 sums torchvision knows."""

    tree: ClassVar[str]
    kind: ClassVar[str]
    """The class in ``torchvision.datasets``."""
    label_key: ClassVar[str]
    """The key of the labels in a file."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def image_shape(cls, options: Any) -> tuple[int, int, int] | None:
        return 3, 32, 32

    def __init__(self, options: Any) -> None:
        from torchvision import datasets

        made = getattr(datasets, self.kind)
        sums = dict([*made.train_list, *made.test_list, (made.meta["filename"], made.meta["md5"])])
        needed = [f"{made.base_folder}/{name}" for name in sums]
        if options.download:
            fetch(self.name, options.root, needed, lambda: _download(made, options.root))
        require(self.name, options.root, needed, self.tree, options.download)
        folder = Path(options.root, made.base_folder)
        self._check(options, folder, sums)
        images, labels = self._read(options, folder, made.train_list)
        train, held = hold_out(
            labels, options.validation, options.labels, options.seed, self.name, options.label_seed
        )
        self.train = self._split(images, labels, 0, train)
        test = self._read(options, folder, made.test_list)
        self.test = self._split(*test, len(labels))
        self.validation = self._split(images, labels, 0, held) if options.validation else self.test
        file = folder / made.meta["filename"]
        try:
            self.class_names = read_names(file, made.meta["key"])
        except (DamagedError, OSError) as error:
            self._wrong(options, file, error)
        self.classes, self.channels = len(self.class_names), 3

    def _check(self, options: Any, folder: Path, sums: Mapping[str, str]) -> None:
        """Check that every file is the published one."""
        from torchvision.datasets.utils import check_integrity

        for name, md5 in sums.items():
            if not check_integrity(str(folder / name), md5):
                self._wrong(options, folder / name)

    def _read(
        self, options: Any, folder: Path, files: Iterable[Sequence[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 3072) and labels (N,) of all these files."""
        images, labels = list[np.ndarray](), list[int]()
        for name, _ in files:
            try:
                some, theirs = read_batch(folder / name, self.label_key)
            except (DamagedError, OSError) as error:
                self._wrong(options, folder / name, error)
            images.append(some)
            labels += theirs
        return np.concatenate(images), np.array(labels)

    def _wrong(self, options: Any, file: Path, error: Exception | None = None) -> NoReturn:
        why = "" if error is None else f" ({error})"
        wrong(self.name, options.root, f"has a damaged file: {file}{why}", self.tree, options.download)

    def _split(
        self, images: np.ndarray, labels: np.ndarray, first: int, chosen: np.ndarray | None = None
    ) -> TensorSplit:
        index = np.arange(len(labels)) if chosen is None else chosen
        pixels = torch.from_numpy(images[index]).view(-1, 3, 32, 32).float().div_(255)
        pixels.sub_(_channels(type(self).mean)).div_(_channels(type(self).std))
        return TensorSplit(pixels, torch.from_numpy(labels[index]), torch.from_numpy(index + first))


def _download(made: Any, root: str) -> None:
    """Fetch and unpack the archive; torchvision checks its MD5 sum."""
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(made.url, root, filename=made.filename, md5=made.tgz_md5)


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
    kind, label_key = "CIFAR10", "labels"
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
    kind, label_key = "CIFAR100", "fine_labels"
    mean = (129.304 / 255, 124.070 / 255, 112.434 / 255)
    std = (68.170 / 255, 65.392 / 255, 70.418 / 255)
    tree = """
cifar-100-python/
  train
  test
  meta
"""

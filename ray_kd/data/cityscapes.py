"""Cityscapes: semantic segmentation of streets."""

from __future__ import annotations

import os
from typing import ClassVar

import torch

from ray_kd.config.registry import DATASETS
from ray_kd.data.dense_files import MaskedImages
from ray_kd.data.files import FileDataset, FileOptions, Files, Form, Size
from ray_kd.data.layout import require, wrong
from ray_kd.outputs import IGNORE


class CityscapesOptions(FileOptions):
    """Options of Cityscapes."""

    size: Size = (512, 1024)
    """Height and width that images are scaled to fit into; they are 1024 x 2048."""


@DATASETS.register("cityscapes", source="Cordts et al., CVPR 2016, arXiv 1604.01685")
class Cityscapes(FileDataset):
    """Cityscapes, fine annotations: the 19 classes of its benchmark, everything else ignored.

    Cityscapes' val (500 images) is the test, since its own test has no public labels; a share of the 2,975
    training images validates. Masks are read from ``labelIds``. Images and masks are scaled to ``size``, at
    which mIoU is computed.

    Raises:
        UserError: missing or damaged files; names them.
    """

    Options = CityscapesOptions
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    tree = """
leftImg8bit/train/<city>/*_leftImg8bit.png
leftImg8bit/val/<city>/*_leftImg8bit.png
gtFine/train/<city>/*_gtFine_labelIds.png
gtFine/val/<city>/*_gtFine_labelIds.png
"""

    def __init__(self, options: CityscapesOptions) -> None:
        from torchvision import datasets

        table = torch.full((256,), IGNORE, dtype=torch.uint8)
        trained = [kind for kind in datasets.Cityscapes.classes if kind.train_id not in (-1, IGNORE)]
        for kind in trained:
            table[kind.id] = kind.train_id
        self.classes = len(trained)
        train, test = (MaskedImages(*self._files(options, split), table) for split in ("train", "val"))
        self.fill(train, test, Form(options.size, options.mean, options.std, "letterbox"), options)

    def _files(self, options: CityscapesOptions, split: str) -> tuple[Files, Files]:
        from torchvision import datasets

        needed = [f"leftImg8bit/{split}", f"gtFine/{split}"]
        require(self.name, options.root, needed, self.tree)
        for folder in needed:
            if not any(entry.is_dir() for entry in os.scandir(os.path.join(options.root, folder))):
                wrong(self.name, options.root, f"has an empty folder {folder}", self.tree)
        try:
            found = datasets.Cityscapes(options.root, split, "fine", "semantic")
        except OSError as error:
            wrong(self.name, options.root, f"cannot be read ({error})", self.tree)
        pairs = sorted(zip(found.images, (masks[0] for masks in found.targets), strict=True))
        if not pairs:
            wrong(self.name, options.root, f"has no image in {needed[0]}", self.tree)
        require(
            self.name, options.root, [os.path.relpath(path, options.root) for path in pairs[0]], self.tree
        )
        images, masks = zip(*pairs, strict=True)
        return Files(options.root, images), Files(options.root, masks)

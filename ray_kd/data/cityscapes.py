"""Cityscapes: semantic segmentation of streets."""

from __future__ import annotations

import os
from typing import ClassVar

from ray_kd.config.registry import DATASETS
from ray_kd.data.dense_files import MaskedImages
from ray_kd.data.files import FileDataset, FileOptions, Files, Size
from ray_kd.data.layout import require, say_once, wrong
from ray_kd.data.listing import folders, left_behind
from ray_kd.data.masks import table_of
from ray_kd.outputs import IGNORE

IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
"""How names of images and of their masks end."""


class CityscapesOptions(FileOptions):
    """Options of Cityscapes."""

    size: Size = (512, 1024)
    """Height and width that images are scaled to fit into; they are 1024 x 2048."""


@DATASETS.register("cityscapes", version=2, source="Cordts et al., CVPR 2016, arXiv 1604.01685")
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

        # Every label of Cityscapes has a number; the licence plate's, -1, is 255 in a file.
        numbers = {kind.id % 256: kind.train_id % 256 for kind in datasets.Cityscapes.classes}
        named = {kind.train_id % 256: kind.name for kind in datasets.Cityscapes.classes}
        self.class_names = tuple(named[number] for number in sorted(named) if number != IGNORE)
        self.classes = len(self.class_names)
        table = table_of(numbers)
        train, test = (
            MaskedImages(*self._files(options, split), table, options.range) for split in ("train", "val")
        )
        self.fill(train, test, options)

    def _files(self, options: CityscapesOptions, split: str) -> tuple[Files, Files]:
        """The images of a split in the order of their paths, and their masks."""
        root, needed = options.root, [f"leftImg8bit/{split}", f"gtFine/{split}"]
        require(self.name, root, needed, self.tree)
        for folder in needed:
            if not folders(os.path.join(root, folder)):
                wrong(self.name, root, f"has an empty folder {folder}", self.tree)
        images = _in_cities(root, needed[0], IMAGE)
        if not images:
            wrong(self.name, root, f"has no image in {needed[0]} whose name ends with {IMAGE}", self.tree)
        masks = [
            f"{needed[1]}/{image.removeprefix(needed[0] + '/').removesuffix(IMAGE)}{MASK}" for image in images
        ]
        require(self.name, root, masks, self.tree)
        others = set(_in_cities(root, needed[1], MASK)) - set(masks)
        if others:
            say_once(self.name, f"left out: {len(others):,} masks in '{root}/{needed[1]}' without an image")
        return Files.below(root, images), Files.below(root, masks)


def _in_cities(root: str, folder: str, ending: str) -> list[str]:
    """The files of all cities in a folder whose names end so, sorted, by their paths below the root."""
    return sorted(
        f"{folder}/{city}/{name}"
        for city in folders(os.path.join(root, folder))
        for name in os.listdir(os.path.join(root, folder, city))
        if name.endswith(ending) and not left_behind(name)
    )

"""PASCAL VOC 2012: segmentation and detection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np
import torch

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.dense_files import BoxedImages, MaskedImages
from ray_kd.data.files import FileDataset, FileOptions, Files, Form, Size
from ray_kd.data.layout import fetch, require, wrong
from ray_kd.outputs import IGNORE

BASE = "VOCdevkit/VOC2012"
# fmt: off
CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on


class VOCOptions(FileOptions):
    """What both tasks of VOC can be told."""

    download: bool = False
    """Fetch the set (2 GB) into ``root`` where it is missing."""
    size: Size = (512, 512)
    """Height and width (one number: a square) that images are scaled to fit into."""


class VOC(FileDataset):
    """What both tasks of VOC have in common."""

    kind: ClassVar[str]
    """The class in ``torchvision.datasets``."""
    lists: ClassVar[str]
    """The folder of lists below ``ImageSets``."""

    def _listed(self, options: Any, image_set: str) -> tuple[Files, Files]:
        """The images and annotations of one list."""
        from torchvision import datasets

        made = getattr(datasets, self.kind)
        needed = [f"{BASE}/{path}" for path in self._needed(image_set)]
        if options.download:
            fetch(self.name, options.root, needed, lambda: made(options.root, "2012", "val", download=True))
        require(self.name, options.root, needed, self.tree, options.download)
        found = made(options.root, "2012", image_set)
        if not found.images:
            wrong(self.name, options.root, f"has an empty list {needed[0]}", self.tree, options.download)
        first = [os.path.relpath(path, options.root) for path in (found.images[0], found.targets[0])]
        require(self.name, options.root, first, self.tree, options.download)
        return Files(options.root, found.images), Files(options.root, found.targets)

    def _needed(self, image_set: str) -> list[str]:
        made_of = {"Segmentation": "SegmentationClass", "Main": "Annotations"}
        return [f"ImageSets/{self.lists}/{image_set}.txt", "JPEGImages", made_of[self.lists]]


class VOCSegmentationOptions(VOCOptions):
    """Options of VOC's segmentation."""

    train: Literal["train", "trainaug"] = "train"
    """The list of training images: the 1,464 of VOC, or the 10,582 with those of SBD (Hariharan et al., ICCV
    2011), whose list ``trainaug.txt`` and folder ``SegmentationClassAug`` are not part of VOC's archive."""


@DATASETS.register("voc_segmentation", source="Everingham et al., IJCV 2015; 2012 edition")
class VOCSegmentation(VOC):
    """VOC 2012 segmentation: 20 classes and the background (class 0), borders ignored.

    VOC's val (1,449 images) is the test, a share of its training images validates. Images and masks are
    letterboxed to ``size``, at which mIoU is computed; what the letterbox adds is ignored.

    Raises:
        UserError: missing or damaged files; names them.
    """

    Options = VOCSegmentationOptions
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    kind, lists = "VOCSegmentation", "Segmentation"
    tree = """
VOCdevkit/VOC2012/
  ImageSets/Segmentation/train.txt, val.txt   (and trainaug.txt, for train: trainaug)
  JPEGImages/*.jpg
  SegmentationClass/*.png                     (and SegmentationClassAug/*.png)
"""

    def __init__(self, options: VOCSegmentationOptions) -> None:
        table = torch.arange(256, dtype=torch.uint8)
        table[len(CLASSES) + 1 :] = IGNORE
        augmented = options.train == "trainaug"
        given = self._augmented(options) if augmented else self._listed(options, "train")
        train = MaskedImages(*given, table)
        test = MaskedImages(*self._listed(options, "val"), table)
        self.classes = len(CLASSES) + 1
        self.fill(train, test, Form(options.size, options.mean, options.std, "letterbox"), options)

    def _augmented(self, options: VOCSegmentationOptions) -> tuple[Files, Files]:
        needed = ["ImageSets/Segmentation/trainaug.txt", "JPEGImages", "SegmentationClassAug"]
        require(self.name, options.root, [f"{BASE}/{path}" for path in needed], self.tree)
        base = Path(options.root, BASE)
        names = [line.split()[0] for line in (base / needed[0]).read_text().splitlines() if line.strip()]
        # Some copies list paths ("/JPEGImages/x.jpg /SegmentationClassAug/x.png"), some names alone.
        names = [Path(name).stem for name in names]
        images = Files(options.root, (str(base / "JPEGImages" / f"{name}.jpg") for name in names))
        masks = Files(options.root, (str(base / "SegmentationClassAug" / f"{name}.png") for name in names))
        return images, masks


class VOCDetectionOptions(VOCOptions):
    """Options of VOC's detection."""


@DATASETS.register("voc_detection", source="Everingham et al., IJCV 2015; 2012 edition")
class VOCDetection(VOC):
    """VOC 2012 detection: 20 classes.

    VOC's val (5,823 images) is the test, a share of its 5,717 training images validates. Objects marked
    ``difficult`` are not trained on; in an evaluation they count as COCO's crowds do: finding them is
    neither asked for nor blamed. Pixels are counted from 0: VOC's xmin and ymin less 1. Images are
    letterboxed to ``size``, boxes with them.

    Raises:
        UserError: missing or damaged files; names them.
    """

    Options = VOCDetectionOptions
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    kind, lists = "VOCDetection", "Main"
    tree = """
VOCdevkit/VOC2012/
  ImageSets/Main/train.txt, val.txt
  JPEGImages/*.jpg
  Annotations/*.xml
"""

    def __init__(self, options: VOCDetectionOptions) -> None:
        train, test = (_boxed(*self._listed(options, name)) for name in ("train", "val"))
        self.classes = len(CLASSES)
        most = max(train.most, test.most)
        self.fill(train, test, Form(options.size, options.mean, options.std, "letterbox", most), options)


def _boxed(images: Files, annotations: Files) -> BoxedImages:
    found = [_objects(annotations[index]) for index in range(len(annotations))]
    boxes = [np.array([row[:4] for row in rows], float).reshape(-1, 4) for rows in found]
    labels = [np.array([row[4] for row in rows]) for rows in found]
    crowd = [np.array([row[5] for row in rows], bool) for rows in found]
    area = [(rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]) for rows in boxes]
    return BoxedImages(images, boxes, labels, crowd, area)


def _objects(file: str) -> list[tuple[float, float, float, float, int, bool]]:
    """The objects of one annotation: x1, y1, x2, y2, class, difficult."""
    try:
        return [_object(node) for node in ElementTree.parse(file).getroot().iter("object")]
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing.") from error
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise UserError(
            f"'{file}' cannot be read as an annotation of VOC ({error}); replace the file."
        ) from error


def _object(node: ElementTree.Element) -> tuple[float, float, float, float, int, bool]:
    name, box = node.findtext("name", "").strip(), node.find("bndbox")
    if name not in CLASSES:
        raise ValueError(f"no class of VOC is called '{name}'")
    if box is None:
        raise ValueError("an object without a bndbox")
    x1, y1, x2, y2 = (float(box.findtext(side, "nothing")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2, CLASSES.index(name), node.findtext("difficult", "0").strip() == "1"

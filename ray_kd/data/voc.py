"""PASCAL VOC 2012: segmentation and detection."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.dense_files import BoxOptions, MaskedImages
from ray_kd.data.files import FileDataset, FileOptions, Files, Size
from ray_kd.data.layout import fetch, require, wrong
from ray_kd.data.listing import lines
from ray_kd.data.masks import table_of
from ray_kd.data.voc_boxes import boxed
from ray_kd.outputs import IGNORE

BASE = "VOCdevkit/VOC2012"
# fmt: off
CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]
# fmt: on


class VOCOptions(FileOptions):
    """Options of both tasks of VOC."""

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

    annotations: ClassVar[tuple[str, str]]
    """The folder of annotations, and how their names end."""

    def _listed(self, options: Any, image_set: str, folder: str | None = None) -> tuple[Files, Files]:
        """The images and annotations of one list.

        Args:
            folder: of the annotations; None: the task's own.
        """
        from torchvision import datasets

        made, (own, ending) = getattr(datasets, self.kind), self.annotations
        parts = [f"ImageSets/{self.lists}/{image_set}.txt", "JPEGImages", folder or own]
        needed = [f"{BASE}/{path}" for path in parts]
        download = options.download if folder is None else None  # SBD's parts are in no archive of VOC
        if download:
            fetch(self.name, options.root, needed, lambda: made(options.root, "2012", "val", download=True))
        require(self.name, options.root, needed, self.tree, download)
        names = self._names(Path(options.root, needed[0]))
        if not names:
            wrong(self.name, options.root, f"has an empty list {needed[0]}", self.tree, download)
        files = [
            [f"{part}/{name}{end}" for name in names]
            for part, end in ((needed[1], ".jpg"), (needed[2], ending))
        ]
        require(self.name, options.root, [part[0] for part in files], self.tree, download)
        return Files.below(options.root, files[0]), Files.below(options.root, files[1])

    def _names(self, file: Path) -> list[str]:
        """What a list names, each once."""
        found = lines(file)
        # Some copies of SBD's list hold paths ("/JPEGImages/x.jpg /SegmentationClassAug/x.png").
        names = [Path(line.split()[0]).stem if line.startswith("/") else line for line in found]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise UserError(f"dataset {self.name}: '{file}' lists '{twice}' twice; expected each image once.")
        return names


class VOCSegmentationOptions(VOCOptions):
    """Options of VOC's segmentation."""

    train: Literal["train", "trainaug"] = "train"
    """The list of training images: the 1,464 of VOC, or the 10,582 with those of SBD (Hariharan et al., ICCV
    2011), whose list ``trainaug.txt`` and folder ``SegmentationClassAug`` are not part of VOC's archive."""


@DATASETS.register("voc_segmentation", version=2, source="Everingham et al., IJCV 2015; 2012 edition")
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
    annotations = ("SegmentationClass", ".png")
    tree = """
VOCdevkit/VOC2012/
  ImageSets/Segmentation/train.txt, val.txt   (and trainaug.txt, for train: trainaug)
  JPEGImages/*.jpg
  SegmentationClass/*.png                     (and SegmentationClassAug/*.png)
"""

    def __init__(self, options: VOCSegmentationOptions) -> None:
        table = table_of({**{number: number for number in range(len(CLASSES) + 1)}, IGNORE: IGNORE})
        folder = "SegmentationClassAug" if options.train == "trainaug" else None
        train = MaskedImages(*self._listed(options, options.train, folder), table, options.range)
        test = MaskedImages(*self._listed(options, "val"), table, options.range)
        self.classes, self.class_names = len(CLASSES) + 1, ("background", *CLASSES)
        self.fill(train, test, options)


class VOCDetectionOptions(VOCOptions, BoxOptions):
    """Options of VOC's detection."""


@DATASETS.register("voc_detection", version=2, source="Everingham et al., IJCV 2015; 2012 edition")
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
    annotations = ("Annotations", ".xml")
    tree = """
VOCdevkit/VOC2012/
  ImageSets/Main/train.txt, val.txt
  JPEGImages/*.jpg
  Annotations/*.xml
"""

    def __init__(self, options: VOCDetectionOptions) -> None:
        train, test = (
            boxed(*self._listed(options, name), CLASSES, options.range, options.outside)
            for name in ("train", "val")
        )
        self.classes, self.class_names = len(CLASSES), tuple(CLASSES)
        self.fill(train, test, options)

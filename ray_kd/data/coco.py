"""COCO's detection, and other sets in its format."""

from __future__ import annotations

import os
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.config.registry import DATASETS
from ray_kd.data.coco_file import Content, listed, read, same_categories
from ray_kd.data.dense_files import Annotations, BoxedImages, BoxOptions
from ray_kd.data.files import FileDataset, Files, Size
from ray_kd.data.layout import require, say_once, wrong


class COCOOptions(BoxOptions):
    """Options of COCO's detection."""

    called: str = "coco2017"
    """What a run's identity calls the data; another set in COCO's format needs another name."""
    train: str = "train2017"
    """The folder of training images; their objects are in ``annotations/instances_<folder>.json``."""
    test: str = "val2017"
    """The folder of the images of the test, likewise."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the training images kept for validation. 0: validation reads the test images, as published
    tables do, so that the best epoch is chosen on them; report the last one then."""
    size: Size = (640, 640)
    """Height and width (one number: a square) that images are scaled to fit into."""


@DATASETS.register("coco_detection", version=2, source="Lin et al., ECCV 2014, arXiv 1405.0312")
class COCODetection(FileDataset):
    """COCO 2017 detection: 80 classes, category ids made contiguous in their order.

    COCO's val2017 (5,000 images) is the test, a share of train2017 validates. Crowds are not trained on;
    an evaluation gets them, with ``crowd`` and the objects' ``area``, scaled. Images without objects stay.
    Images are letterboxed to ``size``, boxes with them.

    The annotations are read here and not by torchvision's ``CocoDetection``, which needs pycocotools and
    would keep every polygon in every process; a test compares the two.

    Raises:
        UserError: missing or damaged files, annotations that contradict themselves, each other or the
            images; names the file, and the annotation by its id.
    """

    Options = COCOOptions
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    tree = """
train2017/*.jpg
val2017/*.jpg
annotations/
  instances_train2017.json
  instances_val2017.json
(or folders of your own, named by the options train and test, each with annotations/instances_<folder>.json)
"""

    def __init__(self, options: COCOOptions) -> None:
        needed = [path for part in (options.train, options.test) for path in (part, _file(part))]
        require(self.name, options.root, needed, self.tree)
        given = [self._read(options.root, part) for part in (options.train, options.test)]
        files = [os.path.join(options.root, _file(part)) for part in (options.train, options.test)]
        same_categories(files[1], given[1].categories, files[0], given[0].categories)
        called = given[0].categories
        self.classes = len(called)
        self.class_names = tuple(called[number] or str(number) for number in sorted(called))
        train, test = (
            self._boxed(options, *both) for both in zip((options.train, options.test), given, strict=True)
        )
        self.fill(train, test, options)

    def _read(self, root: str, part: str) -> Content:
        """What the annotations of a folder say, its images there."""
        file, folder = os.path.join(root, _file(part)), os.path.join(root, part)
        found = read(file)
        missing, others = listed(folder, found.names)
        if missing:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            wrong(self.name, root, f"lacks {part}/{missing[0]}{more}, which '{file}' lists", self.tree)
        if others:
            say_once(self.name, f"left out: {others:,} images in '{folder}' that '{file}' does not list")
        if found.empty:
            say_once(
                self.name, f"left out: {found.empty:,} annotations of '{file}' whose boxes have no extent"
            )
        return found

    def _boxed(self, options: COCOOptions, part: str, found: Content) -> BoxedImages:
        """The images of one folder in the order of their ids, categories numbered in the order of theirs."""
        known = np.array(sorted(found.categories))
        for objects in found.objects:
            objects["label"] = np.searchsorted(known, objects["label"])
        file = os.path.join(options.root, _file(part))
        annotations = Annotations(file, "annotation", found.sizes, found.objects)
        images = Files.below(os.path.join(options.root, part), found.names)
        return BoxedImages(images, annotations, options.range, options.outside)


def _file(part: str) -> str:
    return f"annotations/instances_{part}.json"

"""COCO's detection, and anyone's set in its format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.dense_files import BoxedImages
from ray_kd.data.files import FileDataset, FileOptions, Files, Form, Size
from ray_kd.data.layout import require


class COCOOptions(FileOptions):
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


@DATASETS.register("coco_detection", source="Lin et al., ECCV 2014, arXiv 1405.0312")
class COCODetection(FileDataset):
    """COCO 2017 detection: 80 classes, category ids made contiguous in their order.

    COCO's val2017 (5,000 images) is the test, a share of train2017 validates. Crowds are not trained on;
    an evaluation gets them, with ``crowd`` and the objects' ``area``, scaled. Images without objects stay.
    Images are letterboxed to ``size``, boxes with them.

    The annotations are read here and not by torchvision's ``CocoDetection``, which needs pycocotools and
    would keep every polygon in every process; a test compares the two.

    Raises:
        UserError: missing or damaged files, or splits whose categories differ; names the file.
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
        (train, known), (test, other) = (
            self._read(options.root, part) for part in (options.train, options.test)
        )
        if known != other:
            raise UserError(
                f"dataset {self.name}: '{os.path.join(options.root, _file(options.test))}': its categories "
                f"are not those of {_file(options.train)}."
            )
        self.classes = len(known)
        most = max(train.most, test.most)
        self.fill(train, test, Form(options.size, options.mean, options.std, "letterbox", most), options)

    def _read(self, root: str, part: str) -> tuple[BoxedImages, list[int]]:
        """The images of one folder in the order of their ids, and all category ids."""
        file = Path(root, _file(part))
        try:
            given = json.loads(file.read_bytes())
            known = sorted(category["id"] for category in given["categories"])
            images = sorted(given["images"], key=lambda image: image["id"])
            rows = _objects(given["annotations"], {number: place for place, number in enumerate(known)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"dataset {self.name}: '{file}' cannot be read as annotations of COCO ({error!r}); "
                "replace the file."
            ) from error
        if not images:
            raise UserError(f"dataset {self.name}: '{file}' lists no image.")
        require(self.name, root, [f"{part}/{images[0]['file_name']}"], self.tree)
        found = [rows.get(image["id"], np.zeros((0, 7))) for image in images]
        files = Files(root, (os.path.join(root, part, image["file_name"]) for image in images))
        columns = [[part[:, column] for part in found] for column in (4, 5, 6)]
        return BoxedImages(files, [part[:, :4] for part in found], *columns), known


def _file(part: str) -> str:
    return f"annotations/instances_{part}.json"


def _objects(annotations: list[dict[str, Any]], number: dict[int, int]) -> dict[int, np.ndarray]:
    """By image: x1, y1, x2, y2, class, crowd, area of every object that has an extent."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for given in annotations:
        x, y, width, height = given["bbox"]
        if width > 0 and height > 0:
            area, crowd = given.get("area", width * height), given.get("iscrowd", 0)
            row = (x, y, x + width, y + height, number[given["category_id"]], crowd, area)
            found.setdefault(given["image_id"], []).append(row)
    return {image: np.array(rows, dtype=float) for image, rows in found.items()}

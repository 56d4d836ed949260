"""Pictures that EXIF turns: boxes and masks lie where the upright picture shows what they are of.

Sources: facebookresearch/detectron2 #262, tensorflow/tensorflow #49834, ultralytics/yolov5 #405,
open-edge-platform/datumaro #1756.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.outputs import IGNORE
from tests.data.formats import VOC, load, make_cityscapes, make_coco, make_folder, make_voc, voc_object
from tests.odd_inputs.pictures import SEEN, as_stored, exif

BOX = (3, 5, 12, 9)
"""Where the bright part of the upright picture lies: x1, y1, x2, y2."""


def bright(height: int, width: int) -> np.ndarray:
    """A dark picture with a bright part at ``BOX``."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return pixels


def lie(file: Path, upright: np.ndarray, orientation: int) -> tuple[int, int, tuple[int, int, int, int]]:
    """Write a picture with an orientation; height, width and box as they lie in the file's own rows."""
    stored = as_stored(upright, orientation)
    Image.fromarray(stored).save(file, "PNG", exif=exif(orientation))
    rows, columns = np.nonzero(stored[..., 0])
    box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    return stored.shape[0], stored.shape[1], box


def shown(row: dict[str, Tensor]) -> np.ndarray:
    """Where a raw sample's picture is bright."""
    found: np.ndarray = row["image"][0].numpy() > 127
    return found


def inside(box: Any, shape: tuple[int, ...]) -> np.ndarray:
    found = np.zeros(shape, bool)
    x1, y1, x2, y2 = (round(side) for side in box)
    found[y1:y2, x1:x2] = True
    return found


def coco_of(root: Path, size: tuple[int, int] | None, box: tuple[int, int, int, int]) -> Any:
    """COCO's first training image annotated with one box, and with a size (height, width)."""
    file = root / "annotations" / "instances_train2017.json"
    given = json.loads(file.read_text())
    image = min(given["images"], key=lambda image: image["id"])
    for side in ("height", "width"):
        image.pop(side, None)
    if size is not None:
        image["height"], image["width"] = size
    x1, y1, x2, y2 = box
    one = {"id": 1, "image_id": image["id"], "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1]}
    given["annotations"] = [one]
    file.write_text(json.dumps(given))
    return load("coco_detection", root, validation=0).train


@pytest.mark.parametrize("orientation", SEEN)
def test_boxes_of_the_upright_picture_lie_on_it(tmp_path: Path, orientation: int) -> None:
    make_coco(tmp_path)
    split = coco_of(tmp_path, None, BOX)
    lie(Path(split.paths(0)[0]), bright(40, 30), orientation)
    for size in (None, (40, 30)):
        row = coco_of(tmp_path, size, BOX).raw(0)
        assert row["image"].shape == (3, 40, 30)
        assert row["boxes"].canvas_size == (40, 30)
        assert (inside(row["boxes"][0].tolist(), (40, 30)) == shown(row)).all()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_files_own_rows_are_turned_with_them(tmp_path: Path, orientation: int) -> None:
    make_coco(tmp_path / "coco")
    split = coco_of(tmp_path / "coco", None, BOX)
    height, width, box = lie(Path(split.paths(0)[0]), bright(40, 30), orientation)
    assert (height, width) == (30, 40)
    row = coco_of(tmp_path / "coco", (height, width), box).raw(0)
    assert (inside(row["boxes"][0].tolist(), (40, 30)) == shown(row)).all()

    make_voc(tmp_path / "voc")
    base = tmp_path / "voc" / VOC
    height, width, box = lie(base / "JPEGImages" / "train0.jpg", bright(20, 30), orientation)
    x1, y1, x2, y2 = box
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    text = f"<annotation>{size}{voc_object('dog', 0, x1 + 1, y1 + 1, x2, y2)}</annotation>"
    (base / "Annotations" / "train0.xml").write_text(text)
    row = load("voc_detection", tmp_path / "voc", validation=0).train.raw(0)  # type: ignore[attr-defined]
    assert (inside(row["boxes"][0].tolist(), (20, 30)) == shown(row)).all()


def write_mask(file: Path, upright: np.ndarray, orientation: int, says_so: bool) -> None:
    how: dict[str, Any] = {"exif": exif(orientation)} if says_so else {}
    Image.fromarray(as_stored(upright, orientation)).save(file, **how)


@pytest.mark.parametrize("dataset", ["voc_segmentation", "cityscapes"])
@pytest.mark.parametrize(
    ("orientation", "kind"),
    [(which, kind) for which in SEEN for kind in ("upright", "turned, and says so")]
    # of the others no size tells whether it is upright, and then it is
    + [(which, "as the picture's rows") for which in (1, 5, 6, 7, 8)],
)
def test_masks_lie_on_the_upright_picture(tmp_path: Path, dataset: str, orientation: int, kind: str) -> None:
    (make_voc if dataset == "voc_segmentation" else make_cityscapes)(tmp_path)
    split: Any = load(dataset, tmp_path, validation=0).train
    image, mask = map(Path, split.paths(0))
    pixels = bright(20, 30)
    lie(image, pixels, orientation)
    number, kind_of = (15, 15) if dataset == "voc_segmentation" else (26, 13)
    values = np.where(pixels[..., 0] > 0, number, 255).astype(np.uint8)
    write_mask(mask, values, 1 if kind == "upright" else orientation, "says" in kind)
    row = split.raw(0)
    assert row["mask"].shape == (20, 30)
    assert (row["mask"].numpy()[shown(row)] == kind_of).all()
    assert (row["mask"].numpy()[~shown(row)] == IGNORE).all()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    make_voc(tmp_path)
    Image.fromarray(np.zeros((10, 15), np.uint8)).save(tmp_path / VOC / "SegmentationClass" / "train0.png")
    split = load("voc_segmentation", tmp_path, validation=0).train
    with pytest.raises(
        UserError, match=r"train0\.png' is 15 x 10 pixels large, its image '.*' 30 x 20.*resized"
    ):
        split.gather(torch.tensor([0]))


def test_a_turned_picture_has_its_upright_shape_in_a_folder_of_classes(tmp_path: Path) -> None:
    make_folder(tmp_path)
    split: Any = load("image_folder", tmp_path, validation=0).train
    stored = np.zeros((20, 30, 3), np.uint8)
    Image.fromarray(stored).save(split.paths(0)[0], exif=exif(6))
    assert split.raw(0)["image"].shape == (3, 30, 20)

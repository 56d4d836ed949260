"""Tiny valid copies of the public datasets, in their own formats, on disk; and reading them."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset

VOC = "VOCdevkit/VOC2012"


def picture(file: Path, height: int = 20, width: int = 30, tone: int = 0) -> None:
    """A picture of a gradient, its red channel even and equal to ``tone``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = tone
    pixels[..., 1] = np.linspace(0, 255, width, dtype=np.uint8)
    pixels[..., 2] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    Image.fromarray(pixels).save(file, quality=95)


def make_cifar(root: Path, patch: pytest.MonkeyPatch, classes: int = 10, rows: int = 20) -> None:
    """CIFAR's pickles, ``rows`` images in each file; torchvision is told their MD5 sums."""
    made: Any = getattr(torchvision.datasets, f"CIFAR{classes}")
    folder, random = root / made.base_folder, np.random.default_rng(0)
    folder.mkdir(parents=True)
    label = "labels" if classes == 10 else "fine_labels"

    def write(name: str, content: Any) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for files in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(made, files):
            pixels = random.integers(0, 256, (rows, 3072), dtype=np.uint8)
            sums.append([name, write(name, {"data": pixels, label: [i % classes for i in range(rows)]})])
        patch.setattr(made, files, sums)
    names = write(made.meta["filename"], {made.meta["key"]: [f"class {i}" for i in range(classes)]})
    patch.setattr(made, "meta", {**made.meta, "md5": names})


def make_folder(root: Path, count: int = 6, parts: tuple[str, ...] = ("train", "val")) -> None:
    """Two classes, dark and bright, ``count`` images of each in every part; "" puts them into the root."""
    for part in parts:
        for place, name in enumerate(("bright", "dark")):
            for index in range(count):
                picture(root / part / name / f"{index}.jpg", 20 + index, 30, (200, 40)[place])


def make_tiny_imagenet(root: Path) -> None:
    """Tiny-ImageNet's layout: images below the classes of train, a file of classes in val."""
    lines = []
    for place, name in enumerate(("n01", "n02")):
        for index in range(4):
            picture(root / "train" / name / "images" / f"{name}_{index}.JPEG", 64, 64, (200, 40)[place])
        picture(root / "val" / "images" / f"val_{place}.JPEG", 64, 64, (200, 40)[place])
        lines.append(f"val_{place}.JPEG\t{name}\t0\t0\t63\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]) + "\n")


def masked(file: Path, height: int, width: int, classes: tuple[int, int, int]) -> None:
    """A mask of three equal upright bands, with a palette as VOC's have."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.repeat(np.array(classes, np.uint8), width // 3)[None].repeat(height, 0))
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(file)


def make_voc(root: Path, train: int = 8, val: int = 4) -> None:
    """VOC 2012 with both tasks: 20 x 30 images; of the objects, a person and a difficult dog."""
    base = root / VOC
    for task in ("Segmentation", "Main"):
        folder = base / "ImageSets" / task
        folder.mkdir(parents=True)
        (folder / "train.txt").write_text("".join(f"train{index}\n" for index in range(train)))
        (folder / "val.txt").write_text("".join(f"val{index}\n" for index in range(val)))
    for name in [f"train{index}" for index in range(train)] + [f"val{index}" for index in range(val)]:
        picture(base / "JPEGImages" / f"{name}.jpg", 20, 30)
        masked(base / "SegmentationClass" / f"{name}.png", 20, 30, (0, 15, 255))
        file = base / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        objects = voc_object("person", 0, 4, 3, 13, 18) + voc_object("dog", 1, 16, 5, 30, 20)
        file.write_text(f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>")


def voc_object(name: str, difficult: int, *box: int) -> str:
    """An object of a VOC annotation; its box is counted from 1."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>" if name == "person" else ""
    known = f"<name>{name}</name><difficult>{difficult}</difficult>"
    return f"<object>{known}<bndbox>{inner}</bndbox>{part}</object>"


def make_cityscapes(root: Path, count: int = 6) -> None:
    """Two cities in train and one in val; road (7), car (26) and what nobody evaluates (0)."""
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("ulm",))):
        for city in cities:
            for index in range(count):
                name = f"{city}_000000_{index:06d}"
                picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", 24, 48)
                file = root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                ids = np.repeat(np.array([7, 26, 0], np.uint8), 16)[None].repeat(24, 0)
                Image.fromarray(ids).save(file)


def make_coco(root: Path, train: int = 8, val: int = 4) -> None:
    """COCO with categories 1, 7 and 90: an object, a crowd, one without extent, and images with none."""
    for part, count in (("train2017", train), ("val2017", val)):
        images, annotations = [], list[dict[str, Any]]()
        for index in range(count):
            number, name = 100 - index, f"{index:012d}.jpg"
            picture(root / part / name, 40, 30)
            images.append({"id": number, "file_name": name, "height": 40, "width": 30})
            if index % 4 == 3:
                continue
            for category, crowd, box in (
                (7, 0, [2.0, 4.0, 10.0, 20.0]),
                (90, 1, [0.0, 0.0, 30.0, 8.0]),
                (1, 0, [5.0, 5.0, 0.0, 3.0]),
            ):
                area = box[2] * box[3] / 2
                shape: Any = {"counts": [1200], "size": [40, 30]} if crowd else [[1, 2, 3, 4, 5, 6]]
                one = {"image_id": number, "category_id": category, "iscrowd": crowd, "segmentation": shape}
                annotations.append({**one, "id": len(annotations) + 1, "bbox": box, "area": area})
        kinds = [{"id": number, "name": f"kind {number}"} for number in (90, 1, 7)]
        content = {"images": images, "annotations": annotations, "categories": kinds}
        file = root / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


def load(name: str, root: Path, **options: Any) -> Dataset:
    made: Dataset = DATASETS.get(name)(
        parse_component(DATASETS, {"name": name, "root": str(root), **options})
    )
    return made


def whole(split: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = split.gather(torch.arange(len(split)))
    return found

"""An epoch of training on every public format, from its files to its task's metric."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.spec import RunSpec
from ray_kd.training.distill import distill
from tests.data.formats import make_cifar, make_cityscapes, make_coco, make_folder, make_voc

CLASSIFIER = {"name": "digits_cnn", "width": 2}
SEGNET = {"name": "scenes_segnet", "width": 4}
DETECTOR = {"name": "scenes_detector", "width": 4}
SMALL = {"size": 64, "validation": 0.25}


def train(storage: Path, task: str, dataset: dict[str, Any], student: dict[str, Any], views: str) -> Any:
    run = {
        "task": task,
        "dataset": dataset,
        "views": views,
        "student": student,
        "optimizer": {"lr": 0.01, "clip": 1.0},
        "training": {"epochs": 1, "batch_size": 4},
        "storage": str(storage),
    }
    return distill(RunSpec.parse(run))["last"]


@pytest.mark.slow
def test_classification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "pets")
    make_cifar(tmp_path / "cifar", monkeypatch)
    folder = {"name": "image_folder", "root": str(tmp_path / "pets"), **SMALL, "size": 16}
    cifar = {"name": "cifar10", "root": str(tmp_path / "cifar"), "labels": 20}
    for dataset, views in ((folder, "photo"), (cifar, "pad_crop")):
        last = train(tmp_path / "r", "classification", dataset, CLASSIFIER, views)
        for split in ("val", "test"):
            assert 0 <= last[split]["top1"] <= last[split]["top5"] <= 1


@pytest.mark.slow
def test_segmentation(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc")
    make_cityscapes(tmp_path / "streets")
    for name, root, present in (("voc_segmentation", "voc", {0, 15}), ("cityscapes", "streets", {0, 13})):
        dataset = {"name": name, "root": str(tmp_path / root), **SMALL}
        found = train(tmp_path / "r", "segmentation", dataset, SEGNET, "dense")["test"]
        assert 0 <= found["miou"] <= 1  # neither bounds the other: what is rare counts as much in the first
        assert 0 <= found["pixel_accuracy"] <= 1
        named = {int(key.removeprefix("iou_class")) for key in found if key.startswith("iou_class")}
        assert present <= named


@pytest.mark.slow
def test_detection(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc")
    make_coco(tmp_path / "coco")
    for name in ("voc", "coco"):
        dataset = {"name": f"{name}_detection", "root": str(tmp_path / name), **SMALL}
        found = train(tmp_path / "r", "detection", dataset, DETECTOR, "dense")["test"]
        assert 0 <= found["map"] <= found["map50"] <= 1
        assert math.isfinite(found["loss"])

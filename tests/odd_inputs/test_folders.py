"""Folders and lists as systems and people leave them.

Sources: open-mmlab/mmpretrain #507 (.ipynb_checkpoints becomes a class), pytorch/vision #79 (.DS_Store).
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS
from ray_kd.config.sweep import SweepSpec
from ray_kd.data.base import Dataset
from ray_kd.data.layout import warn_of_few
from ray_kd.training.distill import distill
from tests.data.formats import VOC, load, make_cityscapes, make_coco, make_folder, make_voc, picture
from tests.helpers import TINY
from tests.odd_inputs.test_every_dataset import MAKERS

LITTER_FOLDERS = (
    ".ipynb_checkpoints",
    ".git",
    "__MACOSX",
    "lost+found",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
)
LITTER_FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._0.jpg", ".hidden.png")


def litter(root: Path) -> None:
    """What systems leave behind, in every folder: in the folders an image each, as archives have them."""
    for place in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in LITTER_FOLDERS:
            (place / name).mkdir()
            picture(place / name / "0.jpg")
            picture(place / name / "x_leftImg8bit.png")
            picture(place / name / "inner" / "0.jpg")
        for name in LITTER_FILES:
            (place / name).write_bytes(b"\0\5\26\7")


def known(data: Dataset) -> list[Any]:
    """All that the splits of a dataset hold."""
    splits: list[Any] = [data.train, data.validation, data.test]
    return [data.classes, *([split.paths(i) for i in range(len(split))] for split in splits)]


@pytest.mark.parametrize("name", MAKERS)
def test_what_systems_leave_behind_is_no_sample_and_no_class(tmp_path: Path, name: str) -> None:
    MAKERS[name][0](tmp_path)
    clean = known(load(name, tmp_path, validation=0.25))
    litter(tmp_path)
    data = load(name, tmp_path, validation=0.25)
    assert known(data) == clean
    for split in (data.train, data.validation, data.test):
        split.gather(torch.arange(len(split)))


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("",)])
def test_litter_in_other_layouts_of_a_folder(tmp_path: Path, parts: tuple[str, ...]) -> None:
    make_folder(tmp_path, 8, parts)
    clean = known(load("image_folder", tmp_path))
    litter(tmp_path)
    assert known(load("image_folder", tmp_path)) == clean


def test_a_class_in_one_folder_only_is_named_with_its_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    shutil.copytree(tmp_path / "train" / "dark", tmp_path / "train" / "dusk")
    with pytest.raises(UserError, match=r"only in train: dusk"):
        load("image_folder", tmp_path)
    (tmp_path / "train" / "dusk").rename(tmp_path / "val" / "dusk")
    with pytest.raises(UserError, match=r"only in val: dusk"):
        load("image_folder", tmp_path)


def test_a_class_without_an_image_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match=r"in its folder train: the class 'empty' has no file"):
        load("image_folder", tmp_path)
    (tmp_path / "train" / "empty" / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"the class 'empty' has only files that are no images .*\.gif"):
        load("image_folder", tmp_path)


def test_files_that_are_no_images_are_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path)
    for name in ("a.gif", "b.gif", "list.txt"):
        (tmp_path / "train" / "dark" / name).write_bytes(b"GIF89a")
    for _ in range(2):
        load("image_folder", tmp_path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "left out: 3 files" in said
    assert ".gif 2, .txt 1" in said
    assert str(tmp_path / "train") in said


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "valid"), ("training", "validation")])
def test_folders_of_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    make_folder(tmp_path, parts=names)
    with pytest.raises(UserError, match=r"names of splits and not of classes|lacks val"):
        load("image_folder", tmp_path)


def test_a_test_folder_of_other_classes_is_not_left_out_in_silence(tmp_path: Path) -> None:
    make_folder(tmp_path, parts=("train", "val", "test"))
    for name in ("bright", "dark"):
        (tmp_path / "test" / name).rename(tmp_path / "test" / name.upper())
    with pytest.raises(UserError, match=r"test' has folders \(BRIGHT, DARK\), and none of them is a class"):
        load("image_folder", tmp_path)


def test_a_link_to_a_folder_above_lists_no_file_twice(tmp_path: Path) -> None:
    make_folder(tmp_path)
    clean = known(load("image_folder", tmp_path))
    (tmp_path / "train" / "dark" / "again").symlink_to(tmp_path / "train" / "dark")
    assert known(load("image_folder", tmp_path)) == clean


def test_a_folder_called_like_an_image_is_a_folder_within_its_class(tmp_path: Path) -> None:
    make_folder(tmp_path)
    before = len(load("image_folder", tmp_path, validation=0).train)
    picture(tmp_path / "train" / "dark" / "x.jpg" / "inner.jpg")
    assert len(load("image_folder", tmp_path, validation=0).train) == before + 1


ENDINGS: dict[str, Any] = {
    "blank lines": lambda text: ("\n" + text.replace("\n", "\n\n") + "  \n").encode(),
    "Windows' line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "trailing spaces": lambda text: text.replace("\n", " \t\n").encode(),
    "no end of line": lambda text: text.rstrip("\n").encode(),
    "UTF-16, as PowerShell writes": lambda text: text.encode("utf-16"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["voc_segmentation", "voc_detection", "trainaug"])
def test_lists_of_voc_however_they_were_saved(tmp_path: Path, ending: str, name: str) -> None:
    make_voc(tmp_path)
    base, options = tmp_path / VOC, {"validation": 0}
    if name == "trainaug":
        shutil.copytree(base / "SegmentationClass", base / "SegmentationClassAug")
        lists = base / "ImageSets" / "Segmentation"
        shutil.copy(lists / "train.txt", lists / "trainaug.txt")
        name, options = "voc_segmentation", {"validation": 0, "train": "trainaug"}
    clean = known(load(name, tmp_path, **options))
    for file in (base / "ImageSets").rglob("*.txt"):
        file.write_bytes(ENDINGS[ending](file.read_text()))
    assert known(load(name, tmp_path, **options)) == clean


def test_lists_of_voc_that_cannot_be_right(tmp_path: Path) -> None:
    make_voc(tmp_path)
    file = tmp_path / VOC / "ImageSets" / "Main" / "train.txt"
    file.write_text("train0\ntrain1\ntrain0\n")
    with pytest.raises(UserError, match=r"train\.txt' lists 'train0' twice"):
        load("voc_detection", tmp_path)
    file.write_bytes(b"train\xff\n")
    with pytest.raises(UserError, match=r"train\.txt' is no text in UTF-8"):
        load("voc_detection", tmp_path)


def test_a_missing_mask_of_cityscapes_is_named_before_anything_is_read(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    gone = tmp_path / "gtFine" / "train" / "bochum" / "bochum_000000_000003_gtFine_labelIds.png"
    gone.unlink()
    with pytest.raises(UserError, match=rf"lacks gtFine/train/bochum/{gone.name}"):
        load("cityscapes", tmp_path)


def test_masks_of_cityscapes_without_an_image_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_cityscapes(tmp_path)
    for file in list((tmp_path / "leftImg8bit" / "train" / "bochum").iterdir())[:2]:
        file.unlink()
    data = load("cityscapes", tmp_path, validation=0)
    assert len(data.train) == 10
    (said,) = [record.getMessage() for record in caplog.records]
    assert "left out: 2 masks" in said


def test_the_known_quirks_pass(tmp_path: Path) -> None:
    """A PNG called JPEG and a CMYK JPEG (ImageNet), images without objects and crowds (COCO)."""
    make_folder(tmp_path / "imagenet")
    first = tmp_path / "imagenet" / "train" / "dark"
    Image.new("RGB", (30, 20), (10, 20, 30)).save(first / "0.jpg", "PNG")
    Image.new("CMYK", (30, 20), (0, 0, 0, 0)).save(first / "1.jpg", "JPEG")
    data = load("image_folder", tmp_path / "imagenet", validation=0)
    split: Any = data.train
    names = [
        os.path.basename(os.path.dirname(path)) + "/" + os.path.basename(path) for (path,) in known(data)[1]
    ]
    assert split.raw(names.index("dark/0.jpg"))["image"][:, 0, 0].tolist() == [10, 20, 30]
    assert split.raw(names.index("dark/1.jpg"))["image"][:, 0, 0].tolist() == [255, 255, 255]
    make_coco(tmp_path / "coco")
    rows = load("coco_detection", tmp_path / "coco", validation=0).test.gather(torch.arange(4))
    assert rows["crowd"].any()
    assert (rows["box_label"] == -1).all(1).any()


def test_a_default_share_that_validates_by_a_few_images_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        for number in range(50):
            picture(tmp_path / name / f"{number}.png")
    for _ in range(2):
        found = load("image_folder", tmp_path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "default share of validation (0.05) leaves 4 samples" in said
    assert "dataset.validation" in said
    assert found.notes == (said.removeprefix("dataset image_folder: "),)
    caplog.clear()
    assert load("image_folder", tmp_path, validation=0.06).notes == ()
    assert load("image_folder", tmp_path, validation=0).notes == ()
    assert not caplog.records


@pytest.mark.parametrize(("count", "named"), [(1000, "0.1 leaves 100"), (120, "choose a larger one")])
def test_the_share_that_is_advised_leaves_enough_where_there_is_one(count: int, named: str) -> None:
    options: Any = parse_component(DATASETS, {"name": "image_folder", "root": "anywhere"})
    (note,) = warn_of_few("image_folder", options, round(count * 0.05), count)
    assert named in note
    assert warn_of_few("image_folder", options, 100, 2000) == ()


def test_a_sweep_says_what_its_workers_said_of_the_data(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(20):
            picture(tmp_path / "pets" / name / f"{number}.png", tone=100 * (name == "a"))
    data = {"name": "image_folder", "root": str(tmp_path / "pets"), "size": 16, "validation": 0.05}
    base = {**TINY, "dataset": data, "teacher": None, "paths": [], "storage": str(tmp_path / "results")}
    base["training"] = {"epochs": 1, "batch_size": 8}
    cells: dict[str, Any] = {"slow": {"optimizer.lr": 0.01}, "fast": {}}
    sweep = SweepSpec.parse({"name": "pets", "base": base, "cells": cells, "seeds": [0]})
    for trial in sweep.plan().trials:
        distill(trial.spec)
    screen = io.StringIO()
    assert run_sweep(sweep, console=Console(file=screen, width=300)).finished == 2
    assert screen.getvalue().count("pets: dataset image_folder: the default share of validation") == 1

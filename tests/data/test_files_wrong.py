"""Roots that are missing, laid out otherwise or damaged: one message that says what is expected where."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.cifar_files import read_batch
from ray_kd.models.pickles import DamagedError
from tests.data.formats import (
    VOC,
    load,
    make_cifar,
    make_cityscapes,
    make_coco,
    make_folder,
    make_voc,
    whole,
)
from tests.helpers import daily
from tests.models.baits import COMMANDS

MAKERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "image_folder": (make_folder, "train"),
    "voc_segmentation": (make_voc, f"{VOC}/ImageSets/Segmentation/val.txt"),
    "voc_detection": (make_voc, f"{VOC}/JPEGImages"),
    "cityscapes": (make_cityscapes, "gtFine/val"),
    "coco_detection": (make_coco, "annotations/instances_val2017.json"),
}


@pytest.mark.parametrize("name", ["cifar10", "cifar100", *MAKERS])
def test_a_missing_root_says_what_is_expected_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, tmp_path / "nowhere")
    said = str(caught.value)
    assert f"dataset {name}: root '{tmp_path / 'nowhere'}' does not exist" in said
    for line in DATASETS.get(name).tree.strip().splitlines():
        assert line in said
    assert "dataset.root" in said
    can = "download" in DATASETS.get(name).Options.model_fields
    assert ("dataset.download=true" in said) is can


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "image_folder"])
def test_what_is_missing_in_a_root_is_named(tmp_path: Path, name: str) -> None:
    make, path = MAKERS[name]
    make(tmp_path)
    (tmp_path / path).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"lacks {path}"):
        load(name, tmp_path)


def test_wrong_image_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        load("image_folder", tmp_path)
    make_folder(tmp_path, parts=("val",))
    with pytest.raises(UserError, match="has a folder val, but none called train"):
        load("image_folder", tmp_path)
    make_folder(tmp_path, parts=("train",))
    (tmp_path / "val" / "dark").rename(tmp_path / "val" / "dim")
    with pytest.raises(UserError, match="different classes: dark, dim are in one of them only"):
        load("image_folder", tmp_path)


def damage(file: Path, content: bytes) -> str:
    assert file.is_file()
    file.write_bytes(content)
    return file.name


def test_damaged_files_are_named(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc")
    base = tmp_path / "voc" / VOC
    for name, part in (("train2.jpg", "JPEGImages"), ("train3.png", "SegmentationClass")):
        data = load("voc_segmentation", tmp_path / "voc", validation=0)
        kept = (base / part / name).read_bytes()
        damage(base / part / name, b"no image")
        with pytest.raises(UserError, match=rf"{name}' cannot be read"):
            whole(data.train)
        (base / part / name).write_bytes(kept)
    damage(base / "Annotations" / "val1.xml", b"<annotation><object>")
    with pytest.raises(UserError, match=r"val1\.xml' cannot be read"):
        load("voc_detection", tmp_path / "voc")
    make_coco(tmp_path / "coco")
    damage(tmp_path / "coco" / "annotations" / "instances_train2017.json", b'{"images": [')
    with pytest.raises(UserError, match=r"instances_train2017\.json' cannot be read"):
        load("coco_detection", tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match=r"instances_train2017\.json' cannot be read .*categories"):
        load("coco_detection", tmp_path / "coco")


def test_a_damaged_cifar_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"half")
    with pytest.raises(UserError, match=r"damaged file: \S*data_batch_3"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"lacks cifar-10-batches-py/data_batch_3\.\nExpected"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", *MAKERS])
def test_the_page_shows_what_is_expected(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert DATASETS.get(name).tree.strip() in page


def cifar_batch(data: bytes, label: bytes = b"labels", kind: bytes = b"u1") -> bytes:
    """A file as the published ones are: by Python 2 and a numpy before its version 2."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    unset = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    dtype = b"cnumpy\ndtype\nU\x02" + kind + b"K\x00K\x01\x87R(K\x03U\x01|" + unset
    raw = b"T" + len(data).to_bytes(4, "little") + data
    state = b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89" + raw + b"tb"
    labels = b"U" + bytes([len(label)]) + label + b"](K\x03K\x01e"
    return (
        b"\x80\x02}(U\x0bbatch_labelU\x15training batch 1 of 5"
        + labels
        + b"U\x04data"
        + array
        + state
        + b"u."
    )


def test_cifar_as_python_2_wrote_it(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3072).astype(np.uint8)
    (tmp_path / "batch").write_bytes(cifar_batch(pixels.tobytes()))
    with (tmp_path / "batch").open("rb") as file:
        known = pickle.load(file, encoding="latin1")  # noqa: S301 (ours)
    images, labels = read_batch(tmp_path / "batch", "labels")
    assert (images == known["data"]).all()
    assert images.shape == (2, 3072)
    assert labels == known["labels"] == [3, 1]


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (cifar_batch(bytes(2 * 3072 - 1)), "3072"),
        (cifar_batch(bytes(2 * 3072), kind=b"O8"), "3072"),
        (cifar_batch(bytes(2 * 3072), label=b"others"), "labels"),
        (pickle.dumps({"data": [1], "labels": [1]}), "no array"),
        (pickle.dumps([1]), "no mapping"),
        (cifar_batch(bytes(2 * 3072))[:-300], "breaks off"),
    ],
)
def test_what_is_no_batch_of_cifar_is_refused(tmp_path: Path, batch: bytes, says: str) -> None:
    (tmp_path / "batch").write_bytes(batch)
    with pytest.raises(DamagedError, match=says):
        read_batch(tmp_path / "batch", "labels")


@pytest.mark.parametrize("bait", daily(COMMANDS, 5))
@pytest.mark.parametrize("number", [1, -1])
def test_a_program_in_cifars_clothes_is_named_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bait: str, number: int
) -> None:
    make_cifar(tmp_path, monkeypatch)
    made, marker = torchvision.datasets.CIFAR10, tmp_path / "ran"
    name = [*(name for name, _ in made.train_list), made.meta["filename"]][number]
    file = tmp_path / made.base_folder / name
    file.write_bytes(COMMANDS[bait](f"echo > {marker}"))
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: True)  # a forged MD5 sum
    with pytest.raises(UserError, match=rf"damaged file: \S*{re.escape(name)} \("):
        load("cifar10", tmp_path)
    assert not marker.exists()

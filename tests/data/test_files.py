"""The public datasets from tiny copies in their own formats: splits, values, identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.files import Form
from ray_kd.data.permuted import permuted_labels
from ray_kd.outputs import IGNORE
from tests.data.formats import (
    VOC,
    load,
    make_cifar,
    make_cityscapes,
    make_coco,
    make_folder,
    make_tiny_imagenet,
    make_voc,
    picture,
    whole,
)


def assert_apart(data: Dataset) -> None:
    """No sample is in two splits, by its id."""
    ids = [set(split.ids.tolist()) for split in (data.train, data.validation, data.test)]
    assert sum(map(len, ids)) == len(set.union(*ids))
    assert sum(map(len, ids)) == len(data.train) + len(data.validation) + len(data.test)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    make_cifar(tmp_path, monkeypatch, classes)
    data, made = load(f"cifar{classes}", tmp_path), getattr(torchvision.datasets, f"CIFAR{classes}")
    given, test = made(str(tmp_path), train=True), made(str(tmp_path), train=False)
    assert data.classes == classes
    assert len(data.train) + len(data.validation) == len(given)
    assert_apart(data)
    for split in (data.train, data.validation, data.test):
        assert isinstance(split, TensorSplit)
        for row, number in enumerate(split.ids.tolist()):
            image, label = (*given, *test)[number] if number < len(given) else test[number - len(given)]
            assert split.labels[row] == label
            assert data.mean is not None
            assert data.std is not None
            back = split.images[row] * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(
                3, 1, 1
            )
            torch.testing.assert_close(back * 255, torch.tensor(np.array(image)).permute(2, 0, 1).float())
    published = load(f"cifar{classes}", tmp_path, validation=0)
    assert len(published.train) == len(given)
    assert published.validation is published.test


def test_cifar_is_held_out_evenly_and_budgets_nest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(tmp_path, monkeypatch)
    data, few = load("cifar10", tmp_path), load("cifar10", tmp_path, labels=20)
    assert torch.bincount(whole(data.validation)["label"]).tolist() == [1] * 10
    assert torch.bincount(whole(few.train)["label"]).tolist() == [2] * 10
    assert set(few.train.ids.tolist()) < set(data.train.ids.tolist())
    assert torch.equal(few.validation.ids, data.validation.ids)
    with pytest.raises(UserError, match=r"labels: expected 1 to 90 .*got 91"):
        load("cifar10", tmp_path, labels=91)


def test_image_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data = load("image_folder", tmp_path, size=16, validation=0.34)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 4, 12)
    assert_apart(data)
    assert data.classes == 2
    for split in (data.train, data.validation, data.test):
        rows = whole(split)
        assert rows["image"].shape[1:] == (3, 16, 16)
        red = rows["image"][:, 0] * data.std[0] + data.mean[0]  # type: ignore[index]
        expected = torch.tensor([200, 40])[rows["label"]].view(-1, 1, 1) / 255
        assert (red - expected).abs().max() < 0.02
    assert torch.bincount(whole(data.validation)["label"]).tolist() == [2, 2]
    assert torch.equal(whole(data.test)["label"], torch.tensor([0] * 6 + [1] * 6))


def test_an_image_folder_with_its_own_test(tmp_path: Path) -> None:
    make_folder(tmp_path, 3, ("train", "val", "test"))
    data = load("image_folder", tmp_path, size=16)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 6, 6)
    assert_apart(data)
    assert "test" in data.test.source.files[0]  # type: ignore[attr-defined]


def test_an_image_folder_without_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, 10, ("",))
    data = load("image_folder", tmp_path, size=16, test=0.2, validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    files = [
        {split.source.files[i] for i in split.chosen} for split in (data.train, data.validation, data.test)
    ]  # type: ignore[attr-defined]
    assert sum(map(len, files)) == len(set.union(*files)) == 20
    assert_apart(data)
    assert torch.bincount(whole(data.test)["label"]).tolist() == [2, 2]


def test_tiny_imagenet_as_it_is(tmp_path: Path) -> None:
    make_tiny_imagenet(tmp_path)
    data = load("image_folder", tmp_path, size=64, validation=0.25)
    rows = whole(data.test)
    assert rows["label"].tolist() == [1, 0]  # the order of val_annotations.txt
    red = rows["image"][:, 0].mean((1, 2)) * data.std[0] + data.mean[0]  # type: ignore[index]
    torch.testing.assert_close(red * 255, torch.tensor([40.0, 200.0]), atol=3, rtol=0)


def test_images_are_evaluated_as_imagenet_is() -> None:
    from torchvision.transforms import v2

    image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8)
    published = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(image)
    assert torch.equal(Form((224, 224)).fit_size({"image": image})["image"], published)


def test_voc_segmentation(tmp_path: Path) -> None:
    make_voc(tmp_path)
    data = load("voc_segmentation", tmp_path, size=40, validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    assert_apart(data)
    assert data.classes_of("segmentation") == 21
    rows = whole(data.train)
    assert rows["image"].shape == (6, 3, 40, 40)
    mask = rows["mask"]  # 20 x 30, three bands, in 40 x 40: 27 rows of three bands of 40 / 3 columns
    assert mask.dtype == torch.int64
    assert (mask[:, 27:] == IGNORE).all()
    assert (mask[:, :27, :13] == 0).all()
    assert (mask[:, :27, 14:26] == 15).all()
    assert (mask[:, :27, 27:] == IGNORE).all()
    assert rows["image"][:, :, 28:].abs().max() < 0.02  # the mean colour


def test_voc_segmentation_with_the_images_of_sbd(tmp_path: Path) -> None:
    make_voc(tmp_path)
    with pytest.raises(UserError, match=r"lacks \S*trainaug.txt"):
        load("voc_segmentation", tmp_path, train="trainaug")
    base = tmp_path / VOC
    (base / "SegmentationClass").rename(base / "SegmentationClassAug")
    (base / "SegmentationClass").mkdir()
    (base / "SegmentationClassAug" / "val0.png").rename(base / "SegmentationClass" / "val0.png")
    lines = "/JPEGImages/train0.jpg /SegmentationClassAug/train0.png\ntrain1\n"
    (base / "ImageSets" / "Segmentation" / "trainaug.txt").write_text(lines)
    data = load("voc_segmentation", tmp_path, train="trainaug", validation=0, size=30)
    assert whole(data.train)["mask"].unique().tolist() == [0, 15, 255]


def test_voc_detection(tmp_path: Path) -> None:
    make_voc(tmp_path)
    data = load("voc_detection", tmp_path, size=60, validation=0.25)
    assert data.classes_of("detection") == 20
    assert_apart(data)
    train, test = whole(data.train), whole(data.test)
    assert "crowd" not in train
    assert train["box_label"].tolist() == [[14, -1]] * 6  # person; the dog is difficult
    torch.testing.assert_close(train["boxes"][0], torch.tensor([[6.0, 4, 26, 36], [0, 0, 0, 0]]))
    assert test["box_label"].tolist() == [[14, 11]] * 4
    assert test["crowd"].tolist() == [[False, True]] * 4
    torch.testing.assert_close(test["area"][0], torch.tensor([640.0, 30 * 32]))


def test_cityscapes(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    data = load("cityscapes", tmp_path, size=(12, 24), validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 6)
    assert_apart(data)
    assert data.classes_of("segmentation") == 19
    rows = whole(data.test)
    assert rows["image"].shape == (6, 3, 12, 24)
    assert (rows["mask"][:, :, :8] == 0).all()  # road
    assert (rows["mask"][:, :, 8:16] == 13).all()  # car
    assert (rows["mask"][:, :, 16:] == IGNORE).all()
    names = data.test.source.images.names()  # type: ignore[attr-defined]
    assert names == sorted(names)


def test_coco_says_what_torchvision_says(tmp_path: Path) -> None:
    make_coco(tmp_path)
    data = load("coco_detection", tmp_path, size=80, validation=0.25)
    assert data.classes_of("detection") == 3
    assert_apart(data)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 4)
    file = tmp_path / "annotations" / "instances_val2017.json"
    official = torchvision.datasets.CocoDetection(str(tmp_path / "val2017"), str(file))
    rows, contiguous = whole(data.test), {1: 0, 7: 1, 90: 2}
    for index in range(4):
        _, objects = official[index]
        objects = [found for found in objects if min(found["bbox"][2:]) > 0]
        for row, found in enumerate(objects):
            x, y, width, height = found["bbox"]
            box = torch.tensor([x, y, x + width, y + height]) * 2
            torch.testing.assert_close(rows["boxes"][index, row], box)
            assert rows["box_label"][index, row] == contiguous[found["category_id"]]
            assert rows["crowd"][index, row] == bool(found["iscrowd"])
            torch.testing.assert_close(rows["area"][index, row], torch.tensor(found["area"] * 4))
        assert (rows["box_label"][index, len(objects) :] == -1).all()
    assert (rows["box_label"] == -1).all(1).any()  # an image without objects
    train = whole(data.train)
    assert set(train["box_label"].flatten().tolist()) == {1, -1}  # no crowd, and none without extent
    assert "crowd" not in train


def test_more_boxes_than_a_row_has_room_for() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 9, 9], [5, 5, 5, 9], [1, 1, 6, 6]])
    sample = {
        "image": torch.zeros(3, 10, 10, dtype=torch.uint8),
        "boxes": boxes,
        "box_label": torch.arange(4),
    }
    row = Form((10, 10), objects=2).finish(sample)
    assert row["box_label"].tolist() == [1, 3]
    assert torch.equal(row["boxes"], boxes[[1, 3]])
    assert Form((10, 10), objects=5).finish(sample)["box_label"].tolist() == [0, 1, 3, -1, -1]


def test_permuted_masks_fit_their_images(tmp_path: Path) -> None:
    make_voc(tmp_path)
    picture(tmp_path / VOC / "JPEGImages" / "train0.jpg", 40, 60)
    Image.fromarray(np.full((40, 60), 3, np.uint8)).save(tmp_path / VOC / "SegmentationClass" / "train0.png")
    data = load("voc_segmentation", tmp_path, size=30, validation=0)
    other: Any = permuted_labels(data.train, 0)
    before, after = whole(data.train), whole(other)
    assert torch.equal(after["mask"], before["mask"][other.order])
    assert not torch.equal(after["mask"], before["mask"])
    assert torch.equal(after["sample"], before["sample"])
    for index in range(len(other)):
        raw = other.raw(index)
        assert raw["image"].shape[-2:] == raw["mask"].shape


def test_where_data_lies_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    def essence(**options: Any) -> dict[str, Any]:
        found: dict[str, Any] = parse_component(DATASETS, options).essence()
        return found

    for name in ("cifar10", "voc_detection", "coco_detection", "cityscapes"):
        one = essence(name=name, root="/data/one")
        assert one == essence(name=name, root="/data/two")
        assert one != essence(name=name, root="/data/one", labels=10)
        assert one != essence(name=name, root="/data/one", seed=1)
    assert essence(name="cifar10", root="a") == essence(name="cifar10", root="a", download=True)
    here = essence(name="image_folder", root="/here/pets")
    assert here == essence(name="image_folder", root="/there/pets")
    assert here == essence(name="image_folder", root="/there/animals", called="pets")
    assert here != essence(name="image_folder", root="/here/birds")
    assert essence(name="coco_detection", root="a") != essence(name="coco_detection", root="a", called="mine")
    assert Path(parse_component(DATASETS, {"name": "cifar10", "root": "x"}).root).is_absolute()

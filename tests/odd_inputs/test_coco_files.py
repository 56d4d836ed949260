"""COCO's files that contradict themselves, each other or the images: refused with the id.

Sources: rbgirshick/py-faster-rcnn #774 and cocodataset/cocoapi #646 (boxes beyond the image),
DLR-RM/BlenderProc #106 and visipedia/inat_loc #2 (width and height swapped), mrnabati/RRPN #3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset
from tests.data.formats import load, make_coco, picture


def changed(root: Path, change: Callable[[Any], Any], part: str = "train2017") -> Dataset:
    """A small COCO, one of its files changed."""
    if not root.joinpath("annotations").exists():
        make_coco(root)
    file = root / "annotations" / f"instances_{part}.json"
    given = json.loads(file.read_text())
    given = change(given) or given
    file.write_text(json.dumps(given))
    return load("coco_detection", root, validation=0, size=(40, 30))


def read_all(root: Path, change: Callable[[Any], Any]) -> None:
    data = changed(root, change)
    data.train.gather(torch.arange(len(data.train)))


def annotation(**values: Any) -> Callable[[Any], None]:
    """Change the second annotation, whose id is 2; None takes a key away."""

    def change(given: Any) -> None:
        one = given["annotations"][1]
        one.update(values)
        for name in [name for name, value in values.items() if value is None]:
            del one[name]

    return change


def image(place: int = 0, **values: Any) -> Callable[[Any], None]:
    return lambda given: given["images"][place].update(values)


def category(place: int = 0, **values: Any) -> Callable[[Any], None]:
    return lambda given: given["categories"][place].update(values)


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "unknown category": (
        annotation(category_id=5),
        r"annotation 2: its category_id 5 is none of 'categories' \(90, 1, 7\)",
    ),
    "category as text": (annotation(category_id="7"), r"annotation 2: its category_id '7' .*it is text"),
    "no category": (annotation(category_id=None), r"annotation 2: its category_id None is none"),
    "unknown image": (annotation(image_id=7), r"annotation 2: its image_id 7 is none of 'images'"),
    "image as text": (annotation(image_id="100"), r"annotation 2: its image_id '100' .*it is text"),
    "no bbox": (annotation(bbox=None), r"annotation 2: its bbox is missing; expected x, y, width, height"),
    "bbox of three": (annotation(bbox=[1, 2, 3]), r"annotation 2: its bbox is \[1, 2, 3\]"),
    "bbox of text": (annotation(bbox=["1", 2, 3, 4]), r"annotation 2: its bbox holds '1'; expected finite"),
    "bbox of NaN": (annotation(bbox=[float("nan"), 2, 3, 4]), r"annotation 2: its bbox holds nan"),
    "bbox of infinity": (annotation(bbox=[1, 2, 3, float("inf")]), r"annotation 2: its bbox holds inf"),
    "bbox of true": (annotation(bbox=[True, 2, 3, 4]), r"annotation 2: its bbox holds True"),
    "bbox of null": (annotation(bbox=[None, 2, 3, 4]), r"annotation 2: its bbox holds None"),
    "negative width": (annotation(bbox=[9, 2, -3, 4]), r"annotation 2: its bbox \[9, 2, -3, 4\] .*negative"),
    "area as text": (annotation(area="9"), r"annotation 2: its area holds '9'"),
    "negative area": (annotation(area=-1), r"annotation 2: .*area -1 is negative"),
    "iscrowd 2": (annotation(iscrowd=2), r"annotation 2: its iscrowd is 2; expected 0 or 1"),
    "annotation id twice": (annotation(id=1), r"annotation id 1 is there twice"),
    "image id twice": (image(id=99), r"image id 99 is there twice"),
    "image id as text": (image(id="100"), r"the id of image 0 .*'100'; expected a whole number"),
    "file twice": (
        image(file_name="000000000001.jpg"),
        r"images 100 and 99 are the same file '000000000001\.jpg'",
    ),
    "no file_name": (image(file_name=None), r"image 100: its file_name is None"),
    "width as text": (image(width="30"), r"image 100: a side is '30'; expected a whole number"),
    "negative height": (image(height=-40), r"image 100 is 30 x -40 pixels large"),
    "category id twice": (category(id=7), r"category id 7 is there twice"),
    "category id of text": (category(id="90"), r"the id of category 0 .*'90'; expected a whole number"),
    "a list of annotations": (
        lambda given: given["annotations"],
        r"it holds a list; expected a mapping with images",
    ),
    "annotations are a mapping": (lambda given: given.update(annotations={}), r"'annotations' is no list"),
    "no annotations": (
        lambda given: {"images": given["images"], "categories": given["categories"]},
        r"'annotations' is not there",
    ),
    "no image": (lambda given: given.update(images=[], annotations=[]), r"it lists no image"),
    "no category in the list": (
        lambda given: given.update(categories=[], annotations=[]),
        r"it lists no category",
    ),
    "shares, not pixels": (
        lambda given: [one.update(bbox=[0.1, 0.2, 0.3, 0.4]) for one in given["annotations"]] and None,
        r"all boxes lie between 0 and 1",
    ),
    "image that is not there": (image(file_name="gone.jpg"), r"lacks train2017/gone\.jpg, which '.*' lists"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_contradicts_itself_is_refused_with_the_id(tmp_path: Path, kind: str) -> None:
    change, said = WRONG[kind]
    with pytest.raises(UserError, match=said) as caught:
        changed(tmp_path, change)
    assert str(tmp_path / "annotations" / "instances_train2017.json") in str(caught.value)


def test_same_ids_with_other_names_are_refused(tmp_path: Path) -> None:
    def swap(given: Any) -> None:
        first, second = given["categories"][:2]
        first["name"], second["name"] = second["name"], first["name"]

    said = r"id 1 is 'kind 90' here and 'kind 1' there, the names are numbered in another order"
    with pytest.raises(UserError, match=said) as caught:
        changed(tmp_path, swap, "val2017")
    for part in ("train2017", "val2017"):
        assert f"instances_{part}.json" in str(caught.value)
    make_coco(tmp_path / "other")
    with pytest.raises(UserError, match=r"id 7 is 'cat' here and 'kind 7' there; expected"):
        changed(tmp_path / "other", category(2, name="cat"), "val2017")


def test_an_id_in_one_file_only_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"categories are not those.*id 8 \(odd\) is only here"):
        changed(tmp_path, lambda given: given["categories"].append({"id": 8, "name": "odd"}), "val2017")


def test_names_may_be_left_out(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        data = changed(
            tmp_path, lambda given: [one.pop("name") for one in given["categories"]] and None, part
        )
    assert data.classes == 3


@pytest.mark.parametrize("said", ["size", "no size"])
def test_boxes_of_an_image_that_was_resized_later(tmp_path: Path, said: str) -> None:
    """Boxes at 160 to 267 in an image of 30 x 40: the file knows the size, or only the image does."""

    def change(given: Any) -> None:
        given["annotations"][0]["bbox"] = [160, 160, 107, 107]
        if said == "no size":
            for one in given["images"]:
                del one["width"], one["height"]

    with pytest.raises(UserError) as caught:
        read_all(tmp_path, change)
    for part in (
        "annotation 1",
        "x 160 to 267",
        "000000000000.jpg",
        "30 x 40",
        "resized after it was annotated",
    ):
        assert part in str(caught.value)


def test_an_image_that_was_resized_with_the_size_still_in_the_file(tmp_path: Path) -> None:
    """The boxes fit the size in the file, and the image has another: found where it is read."""
    data = changed(
        tmp_path, lambda given: [one.update(width=300, height=400) for one in given["images"]] and None
    )
    with pytest.raises(
        UserError, match=r"\.jpg' is 30 x 40 pixels large, and '.*' says 300 x 400: .*resized"
    ):
        data.train.gather(torch.arange(len(data.train)))


def test_swapped_width_and_height_are_refused(tmp_path: Path) -> None:
    def change(given: Any) -> None:
        for one in given["images"]:
            one["width"], one["height"] = one["height"], one["width"]

    with pytest.raises(UserError, match=r"is 30 x 40 pixels large, and '.*' says 40 x 30"):
        read_all(tmp_path, change)


def test_corners_in_place_of_width_and_height_are_guessed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotation 2.*two corners\? COCO's bbox is x, y, width, height"):
        changed(tmp_path, annotation(bbox=[20, 20, 28, 38]))


def test_boxes_that_round_beyond_the_border_stay_as_they_are(tmp_path: Path) -> None:
    data = changed(tmp_path, lambda given: given["annotations"][0].update(bbox=[-0.5, 2, 30.75, 39]))
    rows = data.train.gather(torch.arange(len(data.train)))
    assert (rows["boxes"] == torch.tensor([-0.5, 2, 30.25, 41])).all(-1).any()


def test_boxes_that_rightly_reach_beyond_are_cut_off_on_request(tmp_path: Path) -> None:
    def change(given: Any) -> None:
        given["annotations"][0]["bbox"] = [-10, 5, 25, 60]

    with pytest.raises(UserError, match=r"dataset\.outside=clip"):
        changed(tmp_path, change)
    data = load("coco_detection", tmp_path, validation=0, size=(40, 30), outside="clip")
    rows = data.train.gather(torch.arange(len(data.train)))
    assert (rows["boxes"] == torch.tensor([0.0, 5, 15, 40])).all(-1).any()
    changed_file = tmp_path / "annotations" / "instances_train2017.json"
    given = json.loads(changed_file.read_text())
    given["annotations"][0]["bbox"] = [31, 5, 25, 10]
    changed_file.write_text(json.dumps(given))
    with pytest.raises(UserError, match=r"annotation 1: .*lies outside"):
        load("coco_detection", tmp_path, validation=0, outside="clip")


def test_what_is_left_out_is_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_coco(tmp_path)
    for name in ("extra.jpg", "more.png"):
        picture(tmp_path / "train2017" / name)
    (tmp_path / "train2017" / "list.txt").write_text("")
    for _ in range(2):
        load("coco_detection", tmp_path, validation=0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 3
    assert any("left out: 2 images" in text and "train2017" in text for text in said)
    assert any("left out: 6 annotations" in text and "no extent" in text for text in said)


def test_ids_that_are_whole_floats_and_images_in_folders_are_read(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "train2017" / "part").mkdir()
    (tmp_path / "train2017" / "000000000000.jpg").rename(tmp_path / "train2017" / "part" / "a.jpg")
    data = changed(tmp_path, image(file_name="part/a.jpg", id=100.0))
    split: Any = data.train
    assert any(split.paths(index)[0].endswith("part/a.jpg") for index in range(len(split)))
    before = np.asarray(Image.open(tmp_path / "train2017" / "part" / "a.jpg"))
    row = split.raw(len(split) - 1)  # the largest id
    assert (row["image"].permute(1, 2, 0).numpy() == before).all()
    assert len(row["boxes"]) == 1

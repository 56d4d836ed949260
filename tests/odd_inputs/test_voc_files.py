"""VOC's annotations that contradict themselves or their images: refused with the file and the object.

Sources: HumanSignal/labelImg #73 (sizes of 0), cvondrick/vatic #90 (width and height swapped),
facebookresearch/Detectron #68 (boxes with negative corners), md-121/yellow-sticky-traps-dataset #1.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset
from tests.data.formats import VOC, load, make_voc, voc_object


def opened(root: Path, inner: str) -> Dataset:
    """VOC with this in the annotation of its first training image, which is 30 x 20 pixels large."""
    make_voc(root)
    (root / VOC / "Annotations" / "train0.xml").write_text(f"<annotation>{inner}</annotation>")
    return load("voc_detection", root, validation=0, size=(20, 30))


def first(data: Dataset) -> torch.Tensor:
    """The first box of the first image."""
    return data.train.gather(torch.tensor([0]))["boxes"][0, 0]


def size(width: object, height: object) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


DOG = voc_object("dog", 0, 4, 3, 13, 18)


@pytest.mark.parametrize("said", ["", size(30, 20), size(0, 0), "<size/>", size(30.0, "20.0")])
def test_a_size_that_is_right_or_not_said(tmp_path: Path, said: str) -> None:
    assert first(opened(tmp_path, said + DOG)).tolist() == [3, 2, 13, 18]


WRONG = {
    "unknown class": (
        voc_object("dogg", 0, 4, 3, 13, 18),
        r"object 1: no class of VOC is called 'dogg'; did you mean 'dog'",
    ),
    "second object": (
        DOG + voc_object("zebra", 0, 4, 3, 13, 18),
        r"object 2: no class of VOC is called 'zebra'; expected one",
    ),
    "no name": (DOG.replace("<name>dog</name>", ""), r"object 1: no class of VOC is called ''"),
    "inverted": (
        voc_object("dog", 0, 13, 3, 4, 18),
        r"object 1 \(dog\): its box is inverted: xmin 13 to xmax 4",
    ),
    "upside down": (voc_object("dog", 0, 4, 18, 13, 3), r"its box is inverted.*ymin 18 to ymax 3"),
    "no box": ("<object><name>dog</name></object>", r"object 1 \(dog\): an object without a bndbox"),
    "no xmin": (DOG.replace("<xmin>4</xmin>", ""), r"object 1 \(dog\): xmin is missing; expected a number"),
    "xmin of text": (DOG.replace("<xmin>4", "<xmin>four"), r"xmin is 'four'; expected a number"),
    "xmin of nan": (DOG.replace("<xmin>4", "<xmin>nan"), r"xmin is 'nan'; expected a number"),
    "difficult of text": (
        DOG.replace("<difficult>0", "<difficult>yes"),
        r"difficult is 'yes'; expected 0 or 1",
    ),
    "size of text": (size("wide", 20) + DOG, r"width is 'wide'; expected a number"),
    "outside of what was annotated": (
        size(30, 20) + voc_object("dog", 0, 160, 160, 267, 267),
        r"object 1: its box, x 159 to 267.*30 x 20.*resized after it was annotated",
    ),
    "cut off": ("<object>", r"cannot be read as an annotation of VOC"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_annotation_that_contradicts_itself_is_refused(tmp_path: Path, kind: str) -> None:
    inner, said = WRONG[kind]
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path, inner)
    assert "train0.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (voc_object("dog", 0, 160, 160, 267, 267), r"object 1: its box, x 159 to 267 .*30 x 20 .*resized"),
        (
            size(300, 200) + voc_object("dog", 0, 160, 160, 267, 190),
            r"is 30 x 20 pixels large, and '.*' says 300 x 200",
        ),
        (size(20, 30) + DOG, r"is 30 x 20 pixels large, and '.*' says 20 x 30"),
    ],
)
def test_a_picture_that_was_resized_or_swapped_is_found_where_it_is_read(
    tmp_path: Path, inner: str, said: str
) -> None:
    data = opened(tmp_path, inner)
    with pytest.raises(UserError, match=said) as caught:
        first(data)
    assert "train0.xml" in str(caught.value)
    assert "train0.jpg" in str(caught.value)


def test_a_box_that_counts_from_0_stays_in_the_picture(tmp_path: Path) -> None:
    assert first(opened(tmp_path, voc_object("dog", 0, 0, 0, 13, 18))).tolist() == [0, 0, 13, 18]


def test_a_box_of_one_pixel_and_one_at_every_border(tmp_path: Path) -> None:
    data = opened(tmp_path, voc_object("dog", 0, 30, 20, 30, 20) + voc_object("cat", 0, 1, 1, 30, 20))
    boxes = data.train.gather(torch.tensor([0]))["boxes"][0, :2]
    assert boxes.tolist() == [[29, 19, 30, 20], [0, 0, 30, 20]]


def test_boxes_that_rightly_reach_beyond_are_cut_off_on_request(tmp_path: Path) -> None:
    opened(tmp_path, voc_object("dog", 0, 21, 11, 60, 40))
    data = load("voc_detection", tmp_path, validation=0, size=(20, 30), outside="clip")
    assert first(data).tolist() == [20, 10, 30, 20]

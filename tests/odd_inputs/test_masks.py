"""Masks whose numbers are no classes: an error with the numbers and a guess, and nothing wraps.

Sources: nicolov/segmentation_keras #14 and divamgupta/image-segmentation-keras #257 (VOC's colours and its
class numbers), heyoeyo/muggled_sam #14 (JPEG), open-mmlab/mmsegmentation #3531 (palettes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ray_kd.config.errors import UserError
from ray_kd.outputs import IGNORE
from tests.data.formats import VOC, load, make_cityscapes, make_voc

AEROPLANE, BICYCLE, BORDER = (128, 0, 0), (0, 128, 0), (224, 224, 192)
"""Colours of VOC's classes 1 and 2, and of what is ignored, from its own list of colours."""


def bands(*values: Any) -> np.ndarray:
    """20 x 30 pixels, equal upright bands of these values."""
    return np.repeat(np.array(values), 30 // len(values), axis=0)[None].repeat(20, 0)


def read(root: Path, mask: Image.Image, **how: Any) -> torch.Tensor:
    """The mask of VOC's first training image, this one in its place."""
    make_voc(root)
    mask.save(root / VOC / "SegmentationClass" / "train0.png", **how)
    data = load("voc_segmentation", root, size=(20, 30), validation=0)
    return data.train.gather(torch.tensor([0]))["mask"][0]


def of(dtype: Any, *values: int) -> Image.Image:
    return Image.fromarray(bands(*values).astype(dtype))


RIGHT = {
    "grey": of(np.uint8, 0, 20, 255),
    "16 bits": of(np.uint16, 0, 20, 255),
    "16 bits, big-endian": of(">u2", 0, 20, 255),
    "32 bits": of(np.int32, 0, 20, 255),
}


@pytest.mark.parametrize(
    ("kind", "format"),
    # a PNG has 16 bits at most
    [(kind, format) for kind in RIGHT for format in ("PNG", "TIFF") if (kind, format) != ("32 bits", "PNG")],
)
def test_numbers_of_classes_are_read_from_any_integers(tmp_path: Path, kind: str, format: str) -> None:
    found = read(tmp_path, RIGHT[kind], format=format)
    assert torch.equal(found, torch.from_numpy(bands(0, 20, IGNORE)))


def test_one_bit_is_background_and_class_1(tmp_path: Path) -> None:
    found = read(tmp_path, Image.fromarray(bands(False, True)))
    assert torch.equal(found, torch.from_numpy(bands(0, 1)))


def test_a_palette_is_read_by_its_numbers_whatever_its_colours(tmp_path: Path) -> None:
    image = of(np.uint8, 0, 20, 255)
    image.putpalette([value for index in range(256) for value in (255 - index, 3, index)])
    assert torch.equal(read(tmp_path, image), torch.from_numpy(bands(0, 20, IGNORE)))


def colours(*shown: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray(bands(*shown).astype(np.uint8))


WRONG: dict[str, tuple[Image.Image, dict[str, Any], str]] = {
    "VOC's colours as grey": (
        colours((0, 0, 0), AEROPLANE, BICYCLE).convert("L"),
        {},
        r"holds 38, 75, which are neither .*all its values: 0, 38, 75.*colours of VOC's masks turned into "
        r"grey \(38 is class 1's, 75 is class 2's\)",
    ),
    "VOC's colours as grey, with borders": (
        colours(AEROPLANE, BORDER).convert("L"),
        {},
        r"holds 38, 220, .*colours of VOC's masks turned into grey",
    ),
    "colours": (colours((0, 0, 0), AEROPLANE, BICYCLE), {}, r"an image of 3 channels \(mode RGB\)"),
    "colours with alpha": (colours(AEROPLANE, BICYCLE).convert("RGBA"), {}, r"4 channels \(mode RGBA\)"),
    "grey with alpha": (of(np.uint8, 0, 1).convert("LA"), {}, r"2 channels \(mode LA\)"),
    "8 bits stretched to 16": (of(np.uint16, 0, 257, 20 * 257), {}, r"holds 257, 5140.*times 257"),
    "8 bits moved into 16": (of(np.uint16, 0, 256, 20 * 256), {}, r"holds 256, 5120.*times 256"),
    "16 bits that would wrap to a class": (of(np.uint16, 0, 257), {}, r"holds 257, which is neither"),
    "negative": (of(np.int32, 0, -1), {"format": "TIFF"}, r"holds -1, which is neither"),
    "floats": (of(np.float32, 0, 1), {"format": "TIFF"}, r"got floats \(mode F\)"),
    "counted from 1": (of(np.uint8, 1, 20, 21), {}, r"holds 21, .*counted from 1\?"),
    "blended": (
        of(np.uint8, *range(0, 30)),
        {},
        r"holds 21, 22, 23, 24, 25, 26, 27, 28 and 1 more, which are",
    ),
    "a picture": (
        Image.fromarray(np.arange(600).reshape(20, 30).astype(np.uint8)),
        {},
        r"holds 21, 22, 23, 24, 25, 26, 27, 28 and 226 more.*blended",
    ),
    "a JPEG": (of(np.uint8, 0, 1), {"format": "JPEG"}, r"is a JPEG, which changes class numbers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_number_that_is_no_class_is_an_error_with_a_guess(tmp_path: Path, kind: str) -> None:
    image, how, said = WRONG[kind]
    with pytest.raises(UserError, match=rf"train0\.png'.*{said}") as caught:
        read(tmp_path, image, **how)
    if "neither" in said or "holds" in said:
        assert "expected 0 to 20, and 255 for what is ignored" in str(caught.value)


def test_what_every_number_of_cityscapes_becomes(tmp_path: Path) -> None:
    from torchvision.datasets import Cityscapes

    make_cityscapes(tmp_path)
    split: Any = load("cityscapes", tmp_path, validation=0).train
    file, (height, width) = split.paths(0)[1], (24, 48)
    values = np.zeros((height, width), np.uint8)
    values.flat[:256] = 255
    values.flat[:34] = range(34)
    Image.fromarray(values).save(file)
    found = split.raw(0)["mask"].flatten()
    trained = {kind.id: kind.train_id for kind in Cityscapes.classes}
    assert found[:34].tolist() == [trained[number] for number in range(34)]
    assert (found[34:256] == IGNORE).all()  # 255 is -1, the licence plate
    values.flat[7] = 34
    Image.fromarray(values).save(file)
    with pytest.raises(UserError, match=r"holds 34, which is neither .*expected 7, 8, 11 to 13"):
        split.raw(0)

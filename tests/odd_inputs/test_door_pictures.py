"""Pictures as people's datasets have them: every pixel read rightly by every door, or one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.base import MapSplit
from tests.odd_inputs.doors import DOORS, figures, odd, pictures, send

__all__ = ["odd"]
pytestmark = pytest.mark.usefixtures("odd")

GREY = torch.arange(64, dtype=torch.uint8).view(8, 8) * 4
"""0, 4 ... 252."""
COLOUR = torch.stack([GREY, GREY.flip(0), GREY.flip(1)])


def read(image: Any) -> Tensor:
    """What a picture is read as."""
    return MapSplit([(image, 0), (image, 1)]).gather(torch.tensor([1]))["image"][0]


WIDE = (GREY.numpy().astype(np.uint16) * 257)[None]
"""The same ramp in 16 bits: 257 times as much is the same brightness."""
READ: dict[str, tuple[Any, Tensor]] = {
    "a float tensor": (COLOUR.float() - 3, COLOUR.float() - 3),
    "doubles": (COLOUR.double() / 255, COLOUR.float() / 255),
    "halves": ((COLOUR.float() / 256).half(), COLOUR.float() / 256),
    "bytes": (COLOUR, COLOUR.float() / 255),
    "16 bits": (torch.from_numpy(WIDE), GREY[None].float() / 255),
    "black and white": (COLOUR > 99, (COLOUR > 99).float()),
    "a grey tensor without channels": (GREY, GREY[None].float() / 255),
    "a grey array": (GREY.numpy(), GREY[None].float() / 255),
    "a float array": (COLOUR.numpy() / np.float64(255), COLOUR.float() / 255),
    "an array, channels last": (COLOUR.permute(1, 2, 0).numpy(), COLOUR.float() / 255),
    "an array, channels first": (COLOUR.numpy(), COLOUR.float() / 255),
    "a grey array, channels last": (GREY[:, :, None].numpy(), GREY[None].float() / 255),
    "an array upside down": (COLOUR.numpy()[:, ::-1], COLOUR.flip(1).float() / 255),
    "an array in the other byte order": (WIDE.astype(">u2"), GREY[None].float() / 255),
    "PIL, RGB": (Image.fromarray(COLOUR.permute(1, 2, 0).numpy()), COLOUR.float() / 255),
    "PIL, grey": (Image.fromarray(GREY.numpy()), GREY[None].float() / 255),
    "PIL, 16 bits": (Image.fromarray(WIDE[0]), GREY[None].float() / 255),
    "PIL, 1 bit": (Image.fromarray(GREY.numpy()).point(lambda v: v > 99, "1"), (GREY[None] > 99).float()),
    "PIL, grey palette": (Image.fromarray(GREY.numpy()).convert("P"), GREY.expand(3, 8, 8).float() / 255),
    "PIL, alpha": (Image.fromarray(COLOUR.permute(1, 2, 0).numpy()).convert("RGBA"), COLOUR.float() / 255),
}


@pytest.mark.parametrize("kind", READ)
def test_a_picture_is_read_with_its_full_range(kind: str) -> None:
    image, expected = READ[kind]
    found = read(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_picture_that_says_how_it_was_held_is_read_upright() -> None:
    lying = Image.fromarray(GREY.numpy()[:, :4])
    exif = lying.getexif()
    exif[0x0112] = 6  # the camera was turned: what is seen is turned by a quarter to the right
    lying.info["exif"] = exif.tobytes()
    found = read(lying)
    assert found.shape == (1, 4, 8)
    torch.testing.assert_close(found[0], torch.rot90(GREY[:, :4], -1).float() / 255)


REFUSED_ITEMS: dict[str, tuple[Any, list[str]]] = {
    "32-bit integers": (COLOUR.int() * 1000, ["torch.int32", "range"]),
    "PIL, 32-bit integers": (Image.fromarray(GREY.numpy().astype(np.int32)), ["mode 'I'", "range"]),
    "PIL, floats": (Image.fromarray(GREY.numpy().astype(np.float32)), ["mode 'F'", "range"]),
    "a tensor, channels last": (COLOUR.permute(1, 2, 0), ["channels first", "permute(2, 0, 1)"]),
    "an array that may be either": (np.zeros((3, 5, 3), np.uint8), ["first or last"]),
    "a batch": (COLOUR[None], ["(C, H, W)", "(1, 3, 8, 8)"]),
    "words": ("cat.jpg", ["str"]),
    "an array of objects": (np.array([["a", "b"]]), ["array of numbers"]),
}


@pytest.mark.parametrize("kind", REFUSED_ITEMS)
def test_what_nobody_can_know_is_refused_with_the_sample(kind: str) -> None:
    image, named = REFUSED_ITEMS[kind]
    with pytest.raises(UserError) as caught:
        read(image)
    for word in ["sample 1", *named]:
        assert word in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.uint16])
def test_numbers_of_any_kind_give_the_same_run(tmp_path: Path, door: str, dtype: torch.dtype) -> None:
    values = (pictures() * 200).round()
    plain = figures(send("python", tmp_path / "plain", {"image": values / 255, "label": labels()}))
    given = values / 255
    if dtype != torch.float64:
        given = values if dtype == torch.uint8 else values * 257
    assert figures(send(door, tmp_path / "odd", {"image": given.to(dtype), "label": labels()})) == plain


def labels() -> Tensor:
    return torch.arange(16) % 4


def spoilt(value: float, sample: int) -> Tensor:
    images = pictures()
    images[sample, 0, 3, 3] = value
    return images


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("value", "named"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("where", ["train", "validation"])
def test_a_pixel_that_is_no_number_is_found_with_its_sample(
    tmp_path: Path, door: str, value: float, named: str, where: str
) -> None:
    """Sample 11 is none of the first ones: it is found when its batch is read."""
    with pytest.raises(UserError, match=rf"{where}, sample 11: a pixel is {named}"):
        send(door, tmp_path, {"image": spoilt(value, 11), "label": labels()}, where)


@pytest.mark.parametrize("door", DOORS)
def test_a_pixel_that_is_no_number_among_the_first_ones_is_found_before_step_1(
    tmp_path: Path, door: str
) -> None:
    with pytest.raises(UserError, match=r"test, sample 2: a pixel is NaN"):
        send(door, tmp_path, {"image": spoilt(float("nan"), 2), "label": labels()}, "test")
    assert door == "read" or not list(tmp_path.rglob("epochs.jsonl"))


def test_large_pixels_are_numbers_all_the_same(tmp_path: Path) -> None:
    """The sum of these is infinite in float32, and each of them is finite."""
    images = pictures() * 0 + 1e38
    assert (
        MapSplit(list(zip(images, range(16), strict=True))).gather(torch.arange(9))["image"].isfinite().all()
    )
    with pytest.raises(Exception, match="NaN or infinite"):  # of the losses: that is the training's word
        send("memory", tmp_path, {"image": images, "label": labels()})


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["other channels", "channels last"])
def test_pictures_of_another_shape_than_the_data_has_are_refused(
    tmp_path: Path, door: str, kind: str
) -> None:
    images = {"other channels": pictures(channels=3), "channels last": pictures(channels=3).movedim(1, -1)}[
        kind
    ]
    with pytest.raises(UserError, match=r"validation.*(channels|permute)"):
        send(door, tmp_path, {"image": images, "label": labels()}, "validation")


def test_pictures_of_several_sizes_are_one_message(tmp_path: Path) -> None:
    images = [*pictures()[:5], *pictures(size=9)[5:]]
    with pytest.raises(UserError, match=r"train: image: .*\(1, 8, 8\) and \(1, 9, 9\).*one size"):
        send("python", tmp_path, {"image": images, "label": labels()})


def test_a_grey_picture_among_coloured_ones_is_one_message(tmp_path: Path) -> None:
    images = [*pictures(channels=3)[:5], *pictures()[5:]]
    with pytest.raises(UserError, match=r"train: image: .*\(3, 8, 8\) and \(1, 8, 8\)"):
        send("python", tmp_path, {"image": images, "label": labels()}, channels=3)

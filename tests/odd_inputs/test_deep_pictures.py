"""Pictures of more than 8 bits: their range, and their way through views and batches.

Sources: python-pillow/Pillow #1108 and #2574 (convert("RGB") clips 16 bits at 255).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS, VIEWS
from tests.data.formats import load, make_folder, make_voc
from tests.odd_inputs.pictures import ramp


def deep(root: Path, dtype: Any, low: float = 0, high: float = 65535) -> np.ndarray:
    """A folder of two classes whose first image is of more than 8 bits; its values."""
    make_folder(root)
    file = root / "train" / "bright" / "0.jpg"
    values = np.linspace(low, high, 20 * 30).astype(dtype).reshape(20, 30)
    Image.fromarray(values).save(file, "TIFF")
    return values


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_range_says_what_is_black_and_white(tmp_path: Path, dtype: Any) -> None:
    values = deep(tmp_path, dtype, 0, 5000)
    split: Any = load("image_folder", tmp_path, range=[1000, 4095], validation=0).train
    read = split.raw(0)["image"]
    right = np.clip((values.astype(float) - 1000) / 3095, 0, 1)
    assert read.dtype == torch.float32
    np.testing.assert_allclose(read.numpy(), np.repeat(right[None], 3, 0), atol=1e-6)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    values = deep(tmp_path, np.float32)
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "train" / "bright" / "0.jpg", "TIFF")
    split: Any = load("image_folder", tmp_path, range=[0, 1], validation=0).train
    with pytest.raises(UserError, match=r"0\.jpg' holds values that are no numbers"):
        split.raw(0)


def test_a_range_that_falls_is_refused_and_one_is_part_of_the_identity(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"range.*black's below white's"):
        load("image_folder", tmp_path, range=[5, 5])
    plain, other = (
        parse_component(DATASETS, {"name": "image_folder", "root": "a", **more}).essence()
        for more in ({}, {"range": [0, 4095]})
    )
    assert "range" not in plain
    assert other["range"] == [0, 4095]


def test_two_classes_of_16_bits_that_differ_in_brightness_stay_apart(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name, tone in (("dark", 12000), ("light", 40000)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(3):
                values = np.full((16, 16), tone + index, np.uint16)
                Image.fromarray(values).save(folder / f"{index}.png")
    data = load("image_folder", tmp_path, size=16, validation=0)
    rows = data.train.gather(torch.arange(6))
    tones = rows["image"][:, 0].mean((1, 2)) * data.std[0] + data.mean[0]  # type: ignore[index]
    torch.testing.assert_close(tones, torch.tensor([12000, 12001, 12002, 40000, 40001, 40002]) / 65535)


def test_8_and_16_bits_meet_in_one_batch(tmp_path: Path) -> None:
    values = deep(tmp_path, np.uint16)
    data = load("image_folder", tmp_path, size=(20, 30), validation=0)
    both = data.train.gather(torch.arange(2))["image"]
    for index in range(2):
        alone = data.train.gather(torch.tensor([index]))["image"][0]
        torch.testing.assert_close(both[index], alone)
    red = both[0, 0] * data.std[0] + data.mean[0]  # type: ignore[index]
    torch.testing.assert_close(red, torch.from_numpy(values / 65535).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "erasing": 1.0},
        {"randaugment": 2, "magnitude": 15},
        {"mixup": 1.0, "cutmix": 1.0},
        {"crop": "pad"},
        {"crop": "center"},
    ],
)
def test_views_show_16_bits_as_they_show_8(tmp_path: Path, options: dict[str, Any]) -> None:
    """The same picture in both depths under the same view: equal but for the rounding to 8 bits."""
    make_folder(tmp_path / "8")
    make_folder(tmp_path / "16")
    tones = (ramp(20, 30) >> 8).astype(np.uint16)
    for place in ("0", "1"):
        Image.fromarray(tones.astype(np.uint8)).save(
            tmp_path / "8" / "train" / "dark" / f"{place}.jpg", "PNG"
        )
        Image.fromarray(tones * 257).save(tmp_path / "16" / "train" / "dark" / f"{place}.jpg", "PNG")
    shown = []
    for name in ("8", "16"):
        data = load("image_folder", tmp_path / name, size=16, validation=0)
        views = VIEWS.get("photo")(parse_component(VIEWS, {"name": "photo", **options}))
        views.bind(data, "classification")
        split: Any = data.train
        for place in (6, 7):
            sample = views.sample(split.raw(place), split, place, 3)
            shown.append(split.ready({"image": split.finish(sample)["image"][None]})["image"][0])
    for eight, sixteen in zip(shown[:2], shown[2:], strict=True):
        assert sixteen.isfinite().all()
        assert (eight - sixteen).abs().max() < (12 / 255 if options else 3 / 255) / 0.22


def test_masks_go_with_16_bits_through_dense_views(tmp_path: Path) -> None:
    make_voc(tmp_path)
    file = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "train0.jpg"
    Image.fromarray(ramp(20, 30)).save(file, "PNG")
    data = load("voc_segmentation", tmp_path, size=(20, 30), validation=0)
    views = VIEWS.get("dense")(parse_component(VIEWS, {"name": "dense", "brightness": 0.3}))
    views.bind(data, "segmentation")
    split: Any = data.train
    shown = views.sample(split.raw(0), split, 0, 1)
    assert shown["image"].dtype == torch.float32
    assert 0 <= float(shown["image"].min()) <= float(shown["image"].max()) <= 1
    assert set(shown["mask"].unique().tolist()) <= {0, 15, 255}

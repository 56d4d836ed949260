"""Every dataset of files, every odd picture: read rightly, or refused with the file's name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset
from tests.data.formats import load, make_cityscapes, make_coco, make_folder, make_voc
from tests.odd_inputs.pictures import ODD

MAKERS: dict[str, tuple[Callable[[Path], None], tuple[int, int]]] = {
    "image_folder": (make_folder, (20, 30)),
    "voc_segmentation": (make_voc, (20, 30)),
    "voc_detection": (make_voc, (20, 30)),
    "cityscapes": (make_cityscapes, (24, 48)),
    "coco_detection": (make_coco, (40, 30)),
}
"""What writes a small valid copy, and height and width of its images."""


@pytest.fixture(scope="module", params=MAKERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param][0](root)
    return request.param, root


@pytest.fixture
def opened(written: tuple[str, Path]) -> Any:
    """A dataset, and the file of its first training image, put back afterwards."""
    name, root = written
    data = load(name, root, size=MAKERS[name][1], validation=0)
    file = Path(data.train.paths(0)[0])  # type: ignore[attr-defined]
    kept = file.read_bytes()
    file.unlink()
    yield name, data, file
    if file.is_dir():
        shutil.rmtree(file)
    file.write_bytes(kept)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_picture_is_read_rightly_or_refused_by_name(
    opened: tuple[str, Dataset, Path], odd: str
) -> None:
    name, data, file = opened
    right = ODD[odd](file, *MAKERS[name][1])
    if isinstance(right, str):
        with pytest.raises(UserError) as caught:
            data.train.gather(torch.tensor([0]))
        assert str(file) in str(caught.value)
        assert re.search(right, str(caught.value)), caught.value
        return
    row = data.train.gather(torch.tensor([0]))["image"][0]
    assert data.mean is not None
    assert data.std is not None
    read = row * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
    off = np.abs(read.permute(1, 2, 0).numpy() - right)
    lossy = odd.startswith(("JPEG,", "CMYK"))
    assert off.max() < (12 / 255 if lossy else 1.01 / 255)
    if "grey" in odd and "alpha" not in odd:
        assert off.max() < 1e-5  # 16 bits, not 8

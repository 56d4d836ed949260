"""Every registered dataset passes the public suite, those of files on small valid copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from ray_kd.config.registry import DATASETS
from ray_kd.testing.datasets import DatasetConformance
from tests.data.formats import make_cifar, make_cityscapes, make_coco, make_folder, make_voc

ON_FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "cifar10": (make_cifar, {}),
    "cifar100": (make_cifar, {}),
    "cityscapes": (make_cityscapes, {"size": [24, 48], "validation": 0.25}),
    "coco_detection": (make_coco, {"size": [40, 30], "validation": 0.25}),
    "image_folder": (make_folder, {"size": [20, 30], "validation": 0.25}),
    "voc_detection": (make_voc, {"size": [20, 30], "validation": 0.25}),
    "voc_segmentation": (make_voc, {"size": [20, 30], "validation": 0.25}),
}
"""What writes a small valid copy, and the options that it is read with."""

SMALL = {"scenes": {"size": 24, "train": 20, "validation": 8, "test": 8}}


class OnFiles(DatasetConformance):
    own: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make, own = ON_FILES[self.dataset]
        arguments = (monkeypatch, int(self.dataset.removeprefix("cifar"))) if make is make_cifar else ()
        make(tmp_path, *arguments)
        self.options = {"root": str(tmp_path), **own}


for _name in DATASETS.names():
    if _name == "own":  # what ``distill`` is handed; nothing is built by that name
        continue
    _title = "Test" + "".join(part.title() for part in _name.split("_"))
    _base = OnFiles if _name in ON_FILES else DatasetConformance
    _told = {"options": SMALL[_name]} if _name in SMALL else {}
    globals()[_title] = type(_title, (_base,), {"dataset": _name, "__module__": __name__, **_told})
del DatasetConformance, OnFiles

"""The same look at what is read file by file: here, by processes of a loader, and under views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import Dataset
from ray_kd.data.batches import Batches, in_order
from ray_kd.data.files import FileSplit, Form
from ray_kd.data.loading import Loader
from ray_kd.data.sample_checks import check_dataset

CPU = torch.device("cpu")


class Scribbles:
    """A source of twelve small pictures, with a mask, a class and a box each."""

    def __init__(self, **changed: Any) -> None:
        self.changed = changed

    def __len__(self) -> int:
        return 12

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, 9, 9), dtype=torch.uint8, generator=generator)
        mask = torch.randint(3, (9, 9), dtype=torch.uint8, generator=generator)
        boxes, labels = torch.tensor([[1.0, 1.0, 5.0, 6.0]]), torch.tensor([1])
        found: dict[str, Any] = {"image": tv_tensors.Image(image)}
        if "mask" in self.changed:
            mask[3:6, 3:6] = self.changed["mask"] if index == 7 else 255
            found["mask"] = tv_tensors.Mask(mask)
        elif "boxes" in self.changed or "box_label" in self.changed:
            if index == 7:
                boxes = torch.tensor([self.changed.get("boxes", boxes[0].tolist())])
                labels = torch.tensor([self.changed.get("box_label", 1)])
            found["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(9, 9))
            found["box_label"] = labels
        else:
            found["label"] = self.changed["label"] if index == 7 else index % 3
        return found


def dataset(**changed: Any) -> Dataset:
    data, source = Dataset(), Scribbles(**changed)
    form = Form((8, 8), fit="letterbox", objects=2)
    for place, name in enumerate(("train", "validation", "test")):
        setattr(data, name, FileSplit(source, torch.arange(12), 12 * place, form))
    data.classes, data.channels, data.mean, data.std = 3, 3, form.mean, form.std
    return check_dataset(data, "dataset scribbles", "It has three.")


WRONG = [
    ({"label": 3}, r"label: expected a class from 0 to 2, got 3\. It has three"),
    ({"label": -1}, r"label: .*got -1.*not labelled"),
    ({"mask": 38}, r"mask: .*from 0 to 2, or 255.*got 38"),
    ({"box_label": 3}, r"box_label: .*from 0 to 2.*got 3"),
    ({"boxes": [160.0, 160.0, 267.0, 267.0]}, r"boxes: .*8x8.*resized"),
]


@pytest.mark.parametrize(("changed", "named"), WRONG)
@pytest.mark.parametrize("processes", [0, 1])
def test_a_row_that_is_wrong_is_named_whoever_reads_it(
    changed: dict[str, Any], named: str, processes: int
) -> None:
    data = dataset(**changed)
    views = VIEWS.get("none")(parse_component(VIEWS, "none"))
    loader = Loader({"train": data.train, "validation": data.validation}, views, CPU, processes)
    try:
        with pytest.raises(UserError, match=rf"dataset scribbles, train, sample 7: {named}") as caught:
            list(Batches(data.train, views, 4, 0, CPU, loader=loader).epoch(0))
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=rf"dataset scribbles, validation, sample 7: {named}"):
            list(in_order(data.validation, CPU, loader=loader))
    finally:
        loader.close()
    with pytest.raises(UserError, match=rf"dataset scribbles, test, sample 7: {named}"):
        data.test.gather(torch.tensor([6, 7]))


def test_labels_that_a_view_mixed_are_no_mistake(tmp_path: Path) -> None:
    """And the rows are what the split itself gives."""
    data = dataset(label=2)
    views = VIEWS.get("photo")(parse_component(VIEWS, {"name": "photo", "mixup": 0.5, "size": 8}))
    views.bind(data, "classification")
    loader = Loader({"train": data.train}, views, CPU, 0)
    batches = list(Batches(data.train, views, 4, 0, CPU, loader=loader).epoch(0))
    assert all(batch["label"].shape == (4, 3) for batch in batches)
    bare = FileSplit(Scribbles(label=2), torch.arange(12), 0, Form((8, 8), fit="letterbox", objects=2))
    index: Tensor = torch.arange(12)
    for name, value in bare.gather(index).items():
        assert torch.equal(data.train.gather(index)[name], value)


def test_a_padded_box_and_an_ignored_pixel_are_no_mistake() -> None:
    for changed in ({"mask": 255}, {"box_label": 2}):
        data = dataset(**changed)
        assert len(data.train.gather(torch.arange(12))["image"]) == 12

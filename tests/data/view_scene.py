"""What the tests of views look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from ray_kd.config.options import parse_component
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.views import Views

CLASSES = 7
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EVERYTHING = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "randaugment": 2,
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


class Pictures:
    """A ``RawSplit`` of pictures of many sizes, each pixel a mark of where it lies."""

    size = (24, 24)

    def __init__(self, count: int = 12) -> None:
        self.ids = torch.arange(count) * 3 + 100

    def __len__(self) -> int:
        return len(self.ids)

    def raw(self, index: int) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(index)
        height, width = 30 + index % 5 * 7, 40 - index % 3 * 6
        boxes = torch.rand(4, 2, 2, generator=draw).sort(dim=1).values.flatten(1)
        boxes = boxes * torch.tensor([width, height]).repeat(2)
        return {
            "image": tv_tensors.Image(
                torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8)
            ),
            "label": index % CLASSES,
            "mask": tv_tensors.Mask(torch.randint(5, (height, width), generator=draw)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "box_label": torch.arange(4),
            "area": torch.full((4,), 9.0),
        }

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.as_tensor(value) for name, value in sample.items()}


def data(count: int = 40, side: int = 8) -> Dataset:
    dataset = Dataset()
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, side, side), generator=draw) / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    dataset.train = TensorSplit(images, torch.arange(count) % CLASSES, torch.arange(count) * 5 + 2)
    dataset.classes, dataset.channels, dataset.mean, dataset.std = CLASSES, 3, MEAN, STD
    return dataset


def views(name: str, **options: Any) -> Any:
    made: Views = VIEWS.get(name)(parse_component(VIEWS, {"name": name, **options}))
    made.bind(data(), made.tasks[0])
    return made


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one
    )


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A bright rectangle on black, with its mask and its box."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return {
        "image": tv_tensors.Image(image),
        "mask": tv_tensors.Mask((image[0] > 0).long()),
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor([box]).float(), format="XYXY", canvas_size=(height, width)
        ),
        "box_label": torch.tensor([4]),
        "area": torch.tensor([float((box[2] - box[0]) * (box[3] - box[1]))]),
    }

"""Public datasets as four random images, so that files about them are tried where no data are."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from ray_kd.config.files import INITIAL
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.files import FileSplit, Form

PUBLIC = {
    "cifar100": ("classification", 100),
    "image_folder": ("classification", 1000),
    "voc_segmentation": ("segmentation", 21),
    "cityscapes": ("segmentation", 19),
    "voc_detection": ("detection", 20),
    "coco_detection": ("detection", 80),
}
"""Task and number of classes of each, as published."""


class Photographs:
    """Four images of 60 x 80 pixels, with what their task labels; the last is without objects."""

    def __init__(self, task: str, classes: int) -> None:
        self.task, self.classes = task, classes

    def __len__(self) -> int:
        return 4

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        draw = torch.Generator().manual_seed(index)
        image = tv_tensors.Image(torch.randint(256, (3, 60, 80), generator=draw, dtype=torch.uint8))
        if self.task == "classification":
            return {"image": image, "label": index}
        if self.task == "segmentation":
            blocks = torch.randint(self.classes, (6, 8), generator=draw, dtype=torch.uint8)
            mask = blocks.repeat_interleave(10, 0).repeat_interleave(10, 1)
            return {"image": image, "mask": tv_tensors.Mask(mask)}
        count = 2 if index < 3 else 0
        corner = torch.rand(count, 2, generator=draw) * 30
        boxes = torch.cat([corner, corner + 15 + 15 * torch.rand(count, 2, generator=draw)], 1)
        return {
            "image": image,
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(60, 80)),
            "box_label": torch.randint(self.classes, (count,), generator=draw),
        }


class Stub(Dataset):
    """A public dataset's classes, channels and kind of split, read and viewed as the real ones are."""

    def __init__(self, name: str) -> None:
        task, self.classes = PUBLIC[name]
        self.channels, self.mean, self.std = 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        if name == "cifar100":  # in memory
            split: Any = TensorSplit(torch.randn(4, 3, 32, 32), torch.arange(4))
        else:
            form = Form((64, 64), fit="crop" if task == "classification" else "letterbox", objects=2)
            split = FileSplit(Photographs(task, self.classes), torch.arange(4), 0, form, training=True)
        self.train = self.validation = self.test = split


@cache
def stub(name: str) -> Stub:
    """One for each name."""
    return Stub(name)


def at_hand(spec: RunSpec) -> RunSpec:
    """The run on two images of 64 pixels a step, with nothing that would have to be fetched."""
    given = spec.to_dict()
    given["training"] |= {"batch_size": 2, "accumulate": 1}
    given["resources"] = {}
    if "size" in given["views"]:
        given["views"]["size"] = None
    for teacher in given["teachers"].values():
        teacher["weights"] = INITIAL
    for model in (given["student"], *(teacher["model"] for teacher in given["teachers"].values())):
        model.update(dict.fromkeys(model.keys() & {"weights", "backbone_weights"}))
    return RunSpec.parse(given)

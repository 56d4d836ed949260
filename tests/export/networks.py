"""Small runs of every network, and a network of somebody's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ray_kd.outputs import Outputs
from tests.helpers import TINY_SCENES, on_files
from tests.models.small import TOKENS, VIT

SCENES: dict[str, Any] = {**TINY_SCENES, "teacher": None, "training": {"epochs": 1, "batch_size": 8}}
DETECTION: dict[str, Any] = {**SCENES, "task": "detection"}
LARGER = {"dataset": {**TINY_SCENES["dataset"], "size": 64}}


class Own(nn.Module):
    """A network that returns ``Outputs``, as a user's may."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.last = nn.Linear(4, classes)

    def forward(self, image: Tensor) -> Outputs:
        feature = self.first(image).relu()
        return Outputs((feature,), self.last(feature.mean(dim=(2, 3))))


def own(classes: int, channels: int) -> nn.Module:
    return Own(classes, channels)


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"depth": 8},
    "resnet": {"depth": 18},
    "wrn": {"depth": 10, "width": 1},
    "vgg": {"depth": 8},
    "mobilenet_v2": {},
    "shufflenet_v1": {},
    "shufflenet_v2": {},
    "factory": {"build": f"{__name__}:own"},
    "torchvision": {"arch": "shufflenet_v2_x0_5"},
}
"""Students on image files."""

OTHERS: dict[str, dict[str, Any]] = {
    "digits_cnn": {
        "student": {"name": "digits_cnn", "width": 2},
        "training": {"epochs": 1, "batch_size": 30},
    },
    "torchvision on grey images": {
        "student": {"name": "torchvision", "arch": "shufflenet_v2_x0_5"},
        "training": {"epochs": 1, "batch_size": 30},
    },
    "timm": {"student": VIT, "training": {"epochs": 1, "batch_size": 30}},
    "huggingface": {
        "student": {"name": "huggingface", "config": {"model_type": "vit", **TOKENS, "patch_size": 4}},
        "training": {"epochs": 1, "batch_size": 30},
    },
    "scenes_segnet": SCENES,
    "torchvision_segmentation": {
        **SCENES,
        **LARGER,
        "student": {"name": "torchvision_segmentation", "arch": "lraspp_mobilenet_v3_large"},
    },
    "torchvision_segmentation, small": {
        **SCENES,
        "student": {"name": "torchvision_segmentation", "arch": "fcn_resnet18"},
    },
    "scenes_detector": {**DETECTION, "student": {"name": "scenes_detector", "width": 4}},
    "fcos": {**DETECTION, **LARGER, "student": {"name": "torchvision_detector", "arch": "fcos_resnet18_fpn"}},
    "faster r-cnn": {
        **DETECTION,
        **LARGER,
        "student": {"name": "torchvision_detector", "arch": "fasterrcnn_mobilenet_v3_large_fpn"},
    },
}
"""Whole runs."""

NETWORKS = [*CLASSIFIERS, *OTHERS]


def changes(network: str, root: Path) -> dict[str, Any]:
    """What makes a tiny run one of this network: one epoch, without a teacher."""
    if network in OTHERS:
        return {"teacher": None, **OTHERS[network]}
    files = on_files(root, 0)
    student = {"name": network, **CLASSIFIERS[network]}
    dataset, training = {**files["dataset"], "size": 32}, {"epochs": 1, "batch_size": 8}
    return {**files, "dataset": dataset, "training": training, "student": student, "teacher": None}

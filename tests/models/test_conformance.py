"""Every registered model passes the public suite, in a small form of it; a new one needs a line here if its
defaults are not small."""

from __future__ import annotations

from typing import Any

from torch import nn

from ray_kd.config.registry import MODELS
from ray_kd.testing.models import ModelConformance
from tests.models.small import HF_VIT, RESNET, VIT, is_installed

SMALL: dict[str, dict[str, Any]] = {
    "cifar_resnet": {"options": {"depth": 8}, "image": (3, 16, 16)},
    "digits_cnn": {"image": (1, 8, 8)},
    "factory": {
        "options": {"build": f"{__name__}:built", "taps": ["0", "2"], "image_size": 16},
        "image": (3, 16, 16),
        "tasks": ("classification",),
    },
    "huggingface": {"options": {"config": RESNET}, "tasks": ("classification",)},
    "resnet": {"options": {"depth": 18}, "image": (3, 16, 16)},
    "scenes_detector": {"image": (3, 32, 32)},
    "scenes_segnet": {"image": (3, 32, 32)},
    "timm": {"options": {"model": "mobilenetv3_small_050"}},
    "torchvision": {"options": {"arch": "resnet18"}, "image": (3, 32, 32)},
    "torchvision_detector": {"options": {"arch": "retinanet_resnet18_fpn"}, "image": (3, 64, 64)},
    "torchvision_segmentation": {"options": {"arch": "fcn_resnet18"}, "image": (3, 32, 32)},
    "vgg": {"options": {"depth": 8}},
    "wrn": {"options": {"depth": 10, "width": 1}, "image": (3, 16, 16)},
}
"""What of the suite is told for each, where its defaults are not enough."""
FIXED: dict[str, dict[str, Any]] = {
    "TimmVit": {"model": "timm", "options": {name: VIT[name] for name in ("model", "arguments")}},
    "HuggingfaceVit": {"model": "huggingface", "options": {"config": HF_VIT}, "tasks": ("classification",)},
}
"""Networks that are built for one size of images."""


def built(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    )


for _title, _told in FIXED.items():
    _told |= {"__module__": __name__, "other_size": ModelConformance.image[1:]}
    if is_installed(_told["model"]):
        globals()[f"Test{_title}"] = type(f"Test{_title}", (ModelConformance,), _told)
for _name in filter(is_installed, MODELS.names()):
    if _name == "own":  # what ``distill`` is handed; nothing is built by that name
        continue
    _title = "Test" + "".join(part.title() for part in _name.split("_"))
    _told = {"model": _name, "__module__": __name__, **SMALL.get(_name, {})}
    globals()[_title] = type(_title, (ModelConformance,), _told)
del ModelConformance

"""Boxes to be found, and a small detector that looks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.models import StagedModel, create_model

CLASSES = 3


def detector(**options: object) -> StagedModel:
    return create_model("scenes_detector", classes=CLASSES, channels=3, **{"width": 4, "bins": 5, **options})


def batch(seed: int = 0, images: int = 4) -> dict[str, Tensor]:
    """Images of 32 pixels with up to two objects each; the first has none."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, 2, 2, generator=draw) * 16
    boxes = torch.cat([corner, corner + 6 + 8 * torch.rand(images, 2, 2, generator=draw)], -1)
    label = torch.randint(CLASSES, (images, 2), generator=draw)
    label[1::2, 1] = -1
    label[0] = -1
    image = torch.randn(images, 3, 32, 32, generator=draw)
    return {"image": image, "boxes": boxes, "box_label": label, "sample": torch.arange(images)}

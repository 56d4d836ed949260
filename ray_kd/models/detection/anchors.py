"""Anchors: which object each is to find, and boxes as offsets from them, as torchvision has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ray_kd.models.detection.head import objects

Scales = tuple[float, float, float, float]
BOX_SCALES: Scales = (1.0, 1.0, 1.0, 1.0)
"""Offsets as they are."""


def box_coder(scales: Scales) -> Any:
    """torchvision's coder of boxes as offsets times ``scales``."""
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(scales)


def decode(offsets: Tensor, anchors: Tensor, scales: Scales) -> Tensor:
    """Boxes (N, L, 4) from offsets (N, L, 4) and anchors (L, 4), or each image's own (N, L, 4)."""
    flat = anchors.expand_as(offsets).reshape(-1, 4)
    found: Tensor = box_coder(scales).decode_single(offsets.reshape(-1, 4), flat)
    return found.view_as(offsets)


def objects_of(batch: Mapping[str, Tensor], background: int = 0) -> list[dict[str, Tensor]]:
    """Each image's objects as torchvision wants them: boxes (n, 4), labels (n,) plus ``background``."""
    boxes, label = objects(batch)
    rows = zip(boxes, label, strict=True)
    return [{"boxes": b[k >= 0].float(), "labels": k[k >= 0] + background} for b, k in rows]


def matched(anchors: Tensor, batch: Mapping[str, Tensor], foreground: float, background: float) -> Tensor:
    """Which object each anchor is to find: (N, L), its number in the image; -1: none, -2: neither.

    An anchor finds the object with which its IoU is largest, from ``foreground`` on; below ``background``
    it finds nothing. Each object's best anchors find it whatever their IoU.
    """
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    matcher = Matcher(foreground, background, allow_low_quality_matches=True)
    boxes, label = objects(batch)
    found = label.new_full((len(label), len(anchors)), -1)
    for row, (some, kinds) in enumerate(zip(boxes, label, strict=True)):
        there = (kinds >= 0).nonzero().squeeze(1)
        if len(there):
            match = matcher(box_iou(some[there].to(anchors.dtype), anchors))
            found[row] = torch.where(match >= 0, there[match.clamp_min(0)], match)
    return found

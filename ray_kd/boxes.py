"""Geometry of boxes (x1, y1, x2, y2) in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-7
"""Keeps ratios of areas finite for boxes of area 0."""


def area(boxes: Tensor) -> Tensor:
    """Areas (...,) of boxes (..., 4); 0 for a box with x2 < x1 or y2 < y1."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def intersection(one: Tensor, other: Tensor) -> Tensor:
    """Shared areas of boxes (..., 4) that broadcast against each other."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    return (high - low).clamp_min(0).prod(-1)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that broadcast against each other."""
    shared = intersection(one, other)
    return shared / (area(one) + area(other) - shared).clamp_min(TINY)


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of all pairs: (..., n, 4) and (..., m, 4) give (..., n, m)."""
    return iou(one.unsqueeze(-2), other.unsqueeze(-3))


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised IoU in [-1, 1] of boxes (..., 4): the IoU less the share of the smallest box around both
    that neither covers (Rezatofighi et al., CVPR 2019, arXiv 1902.09630)."""
    shared = intersection(one, other)
    union = area(one) + area(other) - shared
    low, high = torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])
    around = (high - low).clamp_min(0).prod(-1)
    return shared / union.clamp_min(TINY) - (around - union) / around.clamp_min(TINY)

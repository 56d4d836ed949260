"""Shared by paths of segmentation: masks and logits at another resolution, pixels as rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.outputs import IGNORE


def class_map(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (N, H, W) at another ``size`` = (h, w): for each cell the class of the pixel at its centre."""
    rows, columns = (
        ((torch.arange(count, device=mask.device) + 0.5) * (whole / count)).long()
        for count, whole in zip(size, mask.shape[-2:], strict=True)
    )
    return mask[:, rows[:, None], columns]


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (N, K, H, W) resized to ``size`` = (h, w), bilinear; unchanged if the size is equal."""
    if logits.shape[-2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, (size[0], size[1]), mode="bilinear", align_corners=False)


def pixel_rows(values: Tensor, classes: Tensor | None) -> Tensor:
    """Maps (N, C, H, W) as rows (M, C), one for each pixel whose class (N, H, W) is known."""
    rows = values.movedim(1, -1)
    return rows.flatten(0, 2) if classes is None else rows[classes != IGNORE]

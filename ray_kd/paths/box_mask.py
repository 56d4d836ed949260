"""Ground-truth-box imitation: the student's pyramid imitates the teacher's inside objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import feature_of
from ray_kd.paths.detectors import LevelOptions, MaskedPath, objects


class BoxMaskOptions(LevelOptions):
    """Options of ground-truth-box imitation."""


@PATHS.register("box_mask", source="Guo et al., CVPR 2021 (DeFeat), arXiv 2103.14475, its object half")
class BoxMask(MaskedPath):
    r"""Ground-truth-box imitation: :math:`(A(F_s) - F_t)^2` where a position's centre lies in an object's
    box, mean over those positions and channels, one loss for each level.

    Positions are counted over all ranks; a batch without objects has a loss of 0 with a graph. Boxes
    of crowds are ignored. Target: the teacher's level.

    Source: the object half of DeFeat (Guo et al., CVPR 2021), with mask, mean and static weight 2 of
    LD's code (arXiv 2102.12252), where it is one of the regions of imitation. Deviations: DeFeat's
    other half, the background, is left out; A, a 1x1 convolution where widths differ.
    """

    published_weight: ClassVar[float] = 2.0
    Options = BoxMaskOptions

    def masks(self, student: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        boxes, there = objects(self, batch)
        image = self.in_batch(batch, "image").shape[-2:]
        levels = [feature_of(student, stage, self.label).shape[-2:] for stage in range(max(self.stages) + 1)]
        return [inside(boxes, there, (image[0], image[1]), (level[0], level[1])) for level in levels]


def inside(boxes: Tensor, there: Tensor, image: tuple[int, int], level: tuple[int, int]) -> Tensor:
    """Whether the centre of each cell of a level lies in a box, (N, H, W).

    Args:
        boxes: (N, M, 4), pixels.
        there: which of the boxes count, (N, M).
        image: height and width in pixels.
        level: height and width in cells.
    """
    within = []
    for axis, (pixels, cells) in enumerate(zip(image, level, strict=True)):  # y, x
        centre = (torch.arange(cells, device=boxes.device, dtype=boxes.dtype) + 0.5) * (pixels / cells)
        low, high = boxes[..., 1 - axis, None], boxes[..., 3 - axis, None]
        within.append((centre > low) & (centre < high))
    rows, columns = within
    both = rows.unsqueeze(-1) & columns.unsqueeze(-2) & there[..., None, None]
    return both.any(dim=1)

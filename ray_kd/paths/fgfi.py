"""Fine-grained feature imitation: the student imitates the teacher near objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.boxes import pairwise_iou
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.detectors import LevelOptions, MaskedPath, head_of, level_masks, objects


class FgfiOptions(LevelOptions):
    """Options of fine-grained feature imitation."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """An anchor is near an object if their IoU exceeds this fraction of the object's largest IoU."""


@PATHS.register("fgfi", source="Wang et al., CVPR 2019, arXiv 1906.03609")
class Fgfi(MaskedPath):
    r"""Fine-grained feature imitation (FGFI): :math:`(A(F_s) - F_t)^2` at positions near objects, mean
    over those positions and channels, one loss for each level.

    A position is near an object if one of its anchors has an IoU with it above half of the largest
    that any anchor of any level has. Anchors are the ``priors`` of the student's head; an anchor-free
    head has one prior box at each point. Positions are counted over all ranks; a batch without objects
    has a loss of 0, with a graph. Target: the teacher's level.

    Source: Wang, Yuan, Zhang, Feng, CVPR 2019, with mean and static weight 2 of LD's code (arXiv
    2102.12252) for pyramids. Deviations: the authors' own code, for one level, takes the sum over
    channels over twice the count, static weight 0.01, which is C / 2 times this loss; A is a 1x1
    convolution where widths differ, in that code a 3x3 one with ReLU.
    """

    published_weight: ClassVar[float] = 2.0
    Options = FgfiOptions

    def masks(self, student: Outputs, batch: Mapping[str, Tensor]) -> list[Tensor]:
        head = head_of(student, self.label)
        boxes, there = objects(self, batch)
        self.in_batch(batch, "image")
        priors = head.priors.to(boxes.dtype)
        near = [self.near(priors, own, real) for own, real in zip(boxes, there, strict=True)]
        return level_masks(torch.stack(near), head.level_sizes)

    def near(self, priors: Tensor, boxes: Tensor, there: Tensor) -> Tensor:
        """Whether each prior (L, 4) is near one of an image's boxes (M, 4) that are ``there`` (M,)."""
        overlap = pairwise_iou(priors, boxes)
        return ((overlap > self.options.share * overlap.amax(dim=0)) & there).any(dim=1)

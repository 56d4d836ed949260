"""Box-regression distillation: the student's boxes imitate the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.boxes import giou
from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full
from ray_kd.paths.detectors import PredictionPath, head_of, weighted_mean


class BoxRegressionOptions(PathOptions):
    """Options of box-regression distillation."""


@PATHS.register("box_regression", source="GIoU: Rezatofighi et al., CVPR 2019, arXiv 1902.09630")
class BoxRegression(PredictionPath):
    r"""Box-regression distillation: :math:`1 - GIoU(b_s, b_t)`, mean over positives.

    b are the boxes that student and teacher predict at a positive, a position that is trained to find
    an object. Positives are counted over all ranks; without any the loss is 0, with a graph.
    Target: the teacher's
    decoded boxes (N, L, 4) in pixels, which do not depend on how a head encodes boxes.

    Source: the loss is generalised IoU (Rezatofighi et al., CVPR 2019) with the teacher's box in place of
    the object's. No paper publishes a default weight; it is 1 here. Deviation: none.
    """

    published_weight: ClassVar[float] = 1.0
    needs: ClassVar[tuple[str, ...]] = ("boxes", "box_label")
    reads: ClassVar[tuple[str, ...]] = ("bins", "regression")
    Options = BoxRegressionOptions

    @torch.no_grad()
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        head = head_of(teacher, self.label)
        with exact(head.priors):
            return {self.label: head.boxes(teacher).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        for name in self.needs:
            self.in_batch(batch, name)
        head = head_of(student, self.label)
        with exact(head.priors):
            boxes = full(head.boxes(student))
            teacher = self.like(target[self.label], boxes)
            chosen = head.positives(student, batch)
            loss = (1 - giou(boxes[chosen], teacher[chosen])).clamp_min(0)
            return {self.label: weighted_mean(loss, torch.ones_like(loss))}

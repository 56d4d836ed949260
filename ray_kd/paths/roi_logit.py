"""Two-stage class distillation: both heads classify the teacher's proposals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.boxes import area
from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full
from ray_kd.paths.detectors import (
    PredictionPath,
    extra_of,
    head_of,
    tempered_divergence,
    two_stage,
    weighted_mean,
)

PROPOSALS = "the proposals of a two-stage detector"


class RoiLogitOptions(PathOptions):
    """Options of two-stage class distillation."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T: distributions are softmax(z / T) over the classes and the background."""


@PATHS.register("roi_logit", source="Chen et al., NeurIPS 2017 (Learning efficient object detection models)")
class RoiLogit(PredictionPath):
    r"""Two-stage class distillation: :math:`T^2 KL(softmax(z_t/T) \| softmax(z_s/T))` over classes and
    background, mean over the teacher's proposals.

    Both heads predict for the teacher's best n proposals (n is an option of the teacher), so that the
    target can be stored: the proposals (N, n, 4) and the teacher's class logits (N, n, K + 1).
    Proposals without area are padding; proposals are counted over all ranks.

    Source: the classification part of Chen, Choi, Yu, Han, Chandraker, NeurIPS 2017, T 1, static weight
    1 beside the task's (their mu is 0.5). Deviations: their proposals are the student's, and their
    term of the background has weight 1.5, with which the loss is not a divergence.
    """

    published_weight: ClassVar[float] = 1.0
    reads: ClassVar[tuple[str, ...]] = ("features",)
    Options = RoiLogitOptions

    @torch.no_grad()
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        proposals = extra_of(teacher, "proposals", self.label, PROPOSALS).detach()
        logits, _ = two_stage(head_of(teacher, self.label), self.label).roi(teacher, proposals)
        return {f"{self.label}/proposals": proposals, f"{self.label}/logits": logits.detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        proposals = target[f"{self.label}/proposals"]
        logits, _ = two_stage(head_of(student, self.label), self.label).roi(student, proposals)
        with exact(logits):
            logits = full(logits)
            teacher = self.like(target[f"{self.label}/logits"], logits)
            divergence = tempered_divergence(logits, teacher, self.options.temperature)
            return {self.label: weighted_mean(divergence, (area(proposals) > 0).to(divergence.dtype))}

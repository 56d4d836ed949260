"""Localisation distillation: how sure the teacher is of each edge's place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full, logits_of
from ray_kd.paths.detectors import (
    AnswerPath,
    distance_iou,
    extra_of,
    head_of,
    objects,
    tempered_divergence,
    weighted_mean,
)

HINT = "a distribution for each edge of a box"


class LocalisationOptions(PathOptions):
    """Options of localisation distillation."""

    temperature: Annotated[float, Field(gt=0)] = 10.0
    """T: distributions are softmax(bins / T)."""
    valuable: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the valuable localisation region beside the positives; 1 counts it as much."""
    valuable_from: Annotated[float, Field(gt=-1, lt=1)] = 0.125
    """Least DIoU of a position's prior box with an object for it to be of that region."""


@PATHS.register("localisation", source="Zheng et al., CVPR 2022 (LD), arXiv 2102.12252")
class Localisation(AnswerPath):
    r"""Localisation distillation (LD): :math:`\frac{T^2}{R} KL(softmax(b_t/T) \| softmax(b_s/T))` of the R
    bins of each edge, mean over the four edges, then over positives.

    Division by R (the mean over bins) is the published reduction; with 17 bins the sum would be 17 times
    as large. Positives are weighted by the student's largest class probability, without gradient, as in
    GFL's own box losses, and divided by the sum of those weights over all ranks (at least 1). With
    ``valuable`` the same loss is added on the valuable localisation region: positions that are no
    positives and whose prior box has a DIoU of ``valuable_from`` or more with an object, weighted by
    it. No positives give a connected zero. Target: the teacher's bins, logits (N, L, 4, R).

    Source: Zheng, Ye, Wang, Ren, Zuo, Cheng, CVPR 2022, and its code: T 10, static weight 0.25,
    the region likewise. Deviations: that code sums the weighted losses over positives and divides by
    nothing, so its size grows with the objects of a batch; here it is a mean. The region's upper
    bound, the threshold of ATSS, is replaced by "no positive", its lower one, a quarter of that, by 0.125.
    """

    published_weight: ClassVar[float] = 0.25
    needs: ClassVar[tuple[str, ...]] = ("boxes", "box_label")
    reads: ClassVar[tuple[str, ...]] = ("bins",)
    Options = LocalisationOptions

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: extra_of(teacher, "bins", self.label, HINT).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        boxes, there = objects(self, batch)
        bins = extra_of(student, "bins", self.label, HINT)
        head = head_of(student, self.label)
        with exact(bins):
            bins = full(bins)
            teacher = self.like(target[self.label], bins)
            positive = head.positives(student, batch)
            sure = full(logits_of(student, self.label).detach()).sigmoid().amax(dim=-1)
            loss = self.mean(bins, teacher, sure * positive)
            if self.options.valuable > 0:
                near = region(head.priors.to(boxes.dtype), boxes, there, self.options.valuable_from)
                near = near.to(bins.dtype).masked_fill(positive, 0)
                loss = loss + self.options.valuable * self.mean(bins, teacher, near)
        return {self.label: loss}

    def mean(self, bins: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        """The loss over the positions of positive weight (N, L)."""
        chosen = weight > 0
        found, wanted = bins[chosen], teacher[chosen]
        divergence = tempered_divergence(found, wanted, self.options.temperature) / bins.shape[-1]
        return weighted_mean(divergence.mean(dim=-1), weight[chosen].to(bins.dtype))


@torch.no_grad()
def region(priors: Tensor, boxes: Tensor, there: Tensor, least: float) -> Tensor:
    """The largest DIoU of each prior (L, 4) with an object of each image, 0 below ``least``, (N, L)."""
    found = []
    for own, real in zip(boxes, there, strict=True):
        closeness = F.pad(distance_iou(priors, own).masked_fill(~real, -1), (0, 1), value=-1).amax(dim=1)
        found.append(closeness.masked_fill(closeness < least, 0).clamp_min(0))
    return torch.stack(found)

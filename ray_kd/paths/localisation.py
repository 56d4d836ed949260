"""Localisation distillation: compares the distributions of each edge's position."""

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
    PredictionPath,
    distance_iou,
    extra_of,
    head_of,
    objects,
    tempered_divergence,
)
from ray_kd.paths.gather import normaliser

IMAGES = 2
"""Number of images over whose positives the source sums: a GPU's part of a batch."""
HINT = "a distribution for each edge of a box"


class LocalisationOptions(PathOptions):
    """Options of localisation distillation."""

    temperature: Annotated[float, Field(gt=0)] = 10.0
    """T: distributions are softmax(bins / T)."""
    valuable: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the valuable localisation region relative to the positives; its source's code has 0.25."""
    valuable_from: Annotated[float, Field(gt=-1, lt=1)] = 0.125
    """The least DIoU with an object for a position's prior box to be in that region."""


@PATHS.register("localisation", version=2, source="Zheng et al., CVPR 2022 (LD), arXiv 2102.12252")
class Localisation(PredictionPath):
    r"""Localisation distillation (LD): :math:`\frac{T^2}{R} KL(softmax(b_t/T) \| softmax(b_s/T))` of the R
    bins of each edge, mean over the four edges, summed over positives, times 2 over the number of images.

    Division by R (the mean over bins) is the published reduction; with 17 bins the sum would be 17 times
    as large. Positives are weighted by the student's largest class probability, without gradient, as in
    GFL's own box losses. With ``valuable`` the same loss is added on the valuable localisation region:
    positions that are not positive and whose prior box has a DIoU of ``valuable_from`` or more with an
    object, weighted by that DIoU. Without positives the loss is 0, with a graph. Target: the
    teacher's bins, logits (N, L, 4, R).

    Source: Zheng, Ye, Wang, Ren, Zuo, Cheng, CVPR 2022, and its code: T 10, static weight 0.25; its weight
    of the region is 0.25 as well. That code sums the weighted losses over the positives of the images on one
    GPU, two in its configurations, without a divisor. Deviations: the sum is scaled to two images for any
    batch size and number of ranks, so that the static weight means the published strength. The
    region's upper bound, the threshold of ATSS, is replaced by "no positive", its lower one, a quarter
    of that, by 0.125.
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
            loss = self.summed(bins, teacher, sure * positive)
            if self.options.valuable > 0:
                near = region(head.priors.to(boxes.dtype), boxes, there, self.options.valuable_from)
                near = near.to(bins.dtype).masked_fill(positive, 0)
                loss = loss + self.options.valuable * self.summed(bins, teacher, near)
        return {self.label: loss}

    def summed(self, bins: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        """The loss over the positions of positive weight (N, L), as a sum scaled to two images."""
        chosen = weight > 0
        divergence = tempered_divergence(bins[chosen], teacher[chosen], self.options.temperature)
        edges = divergence.mean(dim=-1) / bins.shape[-1]
        images = normaliser(torch.tensor(float(len(bins)), device=bins.device))
        return (edges * weight[chosen].to(bins.dtype)).sum() * (IMAGES / images)


@torch.no_grad()
def region(priors: Tensor, boxes: Tensor, there: Tensor, least: float) -> Tensor:
    """The largest DIoU of each prior (L, 4) with an object of each image, 0 below ``least``, (N, L)."""
    found = []
    for own, real in zip(boxes, there, strict=True):
        closeness = F.pad(distance_iou(priors, own).masked_fill(~real, -1), (0, 1), value=-1).amax(dim=1)
        found.append(closeness.masked_fill(closeness < least, 0).clamp_min(0))
    return torch.stack(found)

"""A dense head that predicts a distribution over each edge's position: generalised focal loss."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.boxes import giou, iou
from ray_kd.models.detection.anchor_points import anchor_points, boxes_around, centre_sampling, edge_distances
from ray_kd.models.detection.head import Head, Parts, matches, objects, tensor_of
from ray_kd.outputs import Outputs
from ray_kd.paths.base import full

BOX_WEIGHT, EDGE_WEIGHT = 2.0, 0.25
"""Weights of GIoU and DFL beside QFL, as published."""


class DistributionHead(Head):
    r"""Reads logits (N, L, K) and ``extra["bins"]`` (N, L, 4, R), logits over an edge's distance.

    Bin r of an edge (left, top, right, bottom) says that it is r strides away from the point; the prediction
    is the distribution's mean. Loss, with sums over all points of all images of all ranks:

    .. math:: \frac{\sum QFL}{P} + 2 \frac{\sum w (1 - GIoU)}{\sum w} + 0.25 \frac{\sum w\, DFL}{\sum w}

    P: positives; w: a positive's largest class probability, without gradient; QFL, quality focal loss:
    :math:`|y - p|^2 BCE(p, y)`, y the IoU of the prediction with its object at the object's class, else 0;
    DFL, distribution focal loss: cross-entropy to the two bins around the true distance, mean of four edges.
    A point's prior is the square of ``reach`` strides around it.

    Source: Li et al., NeurIPS 2020, arXiv 2006.04388. Deviation: points are assigned by centre sampling
    (``anchor_points.centre_sampling``) where the paper takes ATSS: it needs no anchors.

    Args:
        level_sizes: height and width of each level.
        strides: of the levels, in pixels.
        device: of the outputs.
        reach: a level is for objects whose farthest edge is at most so many strides away, and that the
            level below is not for; the last level takes all that are larger.
        radius: of centre sampling, in strides.
        image_size: height and width in pixels; None: what the first level covers.
        **selection: see ``Head``.
    """

    def __init__(
        self,
        level_sizes: tuple[tuple[int, int], ...],
        strides: tuple[int, ...],
        device: torch.device,
        *,
        reach: float,
        radius: float,
        image_size: tuple[int, int] | None = None,
        **selection: Any,
    ) -> None:
        self.centres, self.strides = anchor_points(level_sizes, strides, device)
        self.radius = radius
        ends = [0.0, *(reach * stride for stride in strides[:-1]), torch.inf]
        count = [height * width for height, width in level_sizes]
        limits = torch.tensor([*pairwise(ends)], device=device)
        each = torch.tensor(count, device=device)
        self.limits = limits.repeat_interleave(each, 0, output_size=sum(count))  # said, for the meta device
        half = (reach * self.strides / 2).unsqueeze(1).expand(-1, 4)
        if image_size is None:
            image_size = (level_sizes[0][0] * strides[0], level_sizes[0][1] * strides[0])
        super().__init__(level_sizes, boxes_around(self.centres, half), image_size, **selection)

    def boxes(self, outputs: Outputs) -> Tensor:
        bins = full(tensor_of(outputs, "bins"))
        return boxes_around(self.centres, self._distances(bins) * self.strides.unsqueeze(1))

    def assigned(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The object that each point is to find, (N, L); -1 for none."""
        boxes, label = objects(batch)
        return centre_sampling(self.centres, self.strides, self.limits, boxes, label, self.radius)

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts:
        logits, bins = full(tensor_of(outputs, "logits")), full(tensor_of(outputs, "bins"))
        assigned = self.assigned(batch)
        image, point, goal, label = matches(assigned, batch)
        centres, strides, own = self.centres[point], self.strides[point].unsqueeze(1), bins[image, point]
        predicted = boxes_around(centres, self._distances(own) * strides)
        quality = torch.zeros_like(logits)
        quality[image, point, label] = iou(predicted.detach(), goal).to(quality.dtype)
        weight = logits.detach()[image, point].sigmoid().amax(-1)
        edges = distribution_focal(own, edge_distances(centres, goal) / strides).mean(-1)
        count = (assigned >= 0).sum()
        return {
            "class": (quality_focal(logits, quality).sum(), count),
            "box": (BOX_WEIGHT * (weight * (1 - giou(predicted, goal))).sum(), weight.sum()),
            "edge": (EDGE_WEIGHT * (weight * edges).sum(), weight.sum()),
        }

    @staticmethod
    def _distances(bins: Tensor) -> Tensor:
        """Means (..., 4) of distributions with logits (..., 4, R), in strides."""
        return bins.softmax(-1) @ torch.arange(bins.shape[-1], dtype=bins.dtype, device=bins.device)


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Quality focal loss, entry by entry: |quality - p|^2 times the cross-entropy of p with quality."""
    error = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return error * (quality - logits.sigmoid()).square()


def distribution_focal(bins: Tensor, distance: Tensor) -> Tensor:
    """Distribution focal loss (..., 4): cross-entropy of distributions with logits (..., 4, R) with the
    two bins around ``distance`` (..., 4), shared by nearness; beyond the last bin counts as the last."""
    last = bins.shape[-1] - 1
    distance = distance.clamp(0, last)
    low = distance.floor().clamp_max(last - 1)
    share = (distance - low).to(bins.dtype)
    log = bins.log_softmax(-1)
    index = low.long().unsqueeze(-1)
    below, above = log.gather(-1, index).squeeze(-1), log.gather(-1, index + 1).squeeze(-1)
    return -(below * (1 - share) + above * share)

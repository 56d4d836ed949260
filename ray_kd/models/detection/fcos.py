"""How FCOS's tensors are read: one box at each point, and how near to its middle the point lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.boxes import giou
from ray_kd.models.detection.anchor_points import boxes_around, centre_sampling, edge_distances
from ray_kd.models.detection.head import Head, Parts, matches, objects, tensor_of
from ray_kd.outputs import Outputs
from ray_kd.paths.base import full

RADIUS = 1.5
"""Of centre sampling, in strides."""
LOW, HIGH = 4.0, 8.0
"""A level is for objects whose farthest edge lies so many strides away."""


class FcosHead(Head):
    """Reads logits (N, L, K), ``extra["regression"]`` (N, L, 4), the distances to the edges in strides, and
    ``extra["centerness"]`` (N, L, 1).

    Loss: focal loss, GIoU of positives and binary cross-entropy of centerness, each over the positives of
    all ranks, as torchvision has it. Source: Tian et al., ICCV 2019, arXiv 1904.01355.

    Args:
        level_sizes, priors, image_size, **selection: see ``Head``; a prior is a square of one stride.
    """

    def __init__(
        self,
        level_sizes: tuple[tuple[int, int], ...],
        priors: Tensor,
        image_size: tuple[int, int],
        **selection: Any,
    ) -> None:
        super().__init__(level_sizes, priors, image_size, **selection)
        self.centres, self.strides = (priors[:, :2] + priors[:, 2:]) / 2, priors[:, 2] - priors[:, 0]
        self.limits = torch.stack([LOW * self.strides, HIGH * self.strides], 1)
        first, last = level_sizes[0], level_sizes[-1]
        self.limits[: first[0] * first[1], 0] = 0
        self.limits[-last[0] * last[1] :, 1] = torch.inf

    def boxes(self, outputs: Outputs) -> Tensor:
        distances = full(tensor_of(outputs, "regression")) * self.strides.unsqueeze(1)
        return boxes_around(self.centres, distances)

    def scores(self, outputs: Outputs) -> Tensor:
        """The root of class probability times centerness."""
        logits, centerness = (tensor_of(outputs, name).float() for name in ("logits", "centerness"))
        return (logits.sigmoid() * centerness.sigmoid()).sqrt()

    def assigned(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The object that each point is to find, (N, L); -1 for none."""
        boxes, label = objects(batch)
        return centre_sampling(self.centres, self.strides, self.limits, boxes, label, RADIUS)

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts:
        logits, centerness = full(tensor_of(outputs, "logits")), full(tensor_of(outputs, "centerness"))
        assigned = self.assigned(batch)
        image, point, goal, label = matches(assigned, batch)
        truth = torch.zeros_like(logits)
        truth[image, point, label] = 1
        predicted = self.boxes(outputs)[image, point]
        sides = edge_distances(self.centres[point], goal).unflatten(-1, (2, 2))
        middle = (sides.amin(1) / sides.amax(1)).prod(-1).sqrt().to(centerness.dtype)
        near = F.binary_cross_entropy_with_logits(centerness[image, point, 0], middle, reduction="sum")
        count = (assigned >= 0).sum()
        return {
            "class": (focal(logits, truth).sum(), count),
            "box": ((1 - giou(predicted, goal)).sum(), count),
            "centerness": (near, count),
        }


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Focal loss entry by entry, alpha 0.25, gamma 2 (Lin et al., ICCV 2017, arXiv 1708.02002)."""
    error = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    p = logits.sigmoid()
    missed = p + truth - 2 * p * truth
    return (0.75 - 0.5 * truth) * missed.square() * error

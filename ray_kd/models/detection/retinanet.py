"""How RetinaNet's tensors are read: nine anchors at each point."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ray_kd.models.detection.anchors import BOX_SCALES, box_coder, decode, matched
from ray_kd.models.detection.fcos import focal
from ray_kd.models.detection.head import Head, Parts, matches, tensor_of
from ray_kd.outputs import Outputs
from ray_kd.paths.base import full

FOREGROUND, BACKGROUND = 0.5, 0.4
"""IoU with an object from which an anchor is to find it, and below which it is to find nothing."""


class RetinaNetHead(Head):
    """Reads logits (N, L, K) and ``extra["regression"]`` (N, L, 4), each anchor's offsets.

    Loss: focal loss over the anchors that are not in between, and L1 of the positives' offsets, each over
    the positives of all ranks. Source: Lin et al., ICCV 2017, arXiv 1708.02002. Deviation from torchvision,
    which divides by the positives of each image and then by images: as in the paper, all images count
    together, so that the ranks they lie on do not matter.
    """

    def boxes(self, outputs: Outputs) -> Tensor:
        return decode(full(tensor_of(outputs, "regression")), self.priors, BOX_SCALES)

    def assigned(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The object that each anchor is to find, (N, L); -1: none; -2: neither."""
        return matched(self.priors, batch, FOREGROUND, BACKGROUND)

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts:
        logits, regression = full(tensor_of(outputs, "logits")), full(tensor_of(outputs, "regression"))
        assigned = self.assigned(batch)
        image, point, goal, label = matches(assigned, batch)
        truth = torch.zeros_like(logits)
        truth[image, point, label] = 1
        read = assigned > -2
        offsets = box_coder(BOX_SCALES).encode_single(goal.to(regression.dtype), self.priors[point])
        count = (assigned >= 0).sum()
        return {
            "class": (focal(logits[read], truth[read]).sum(), count),
            "box": ((regression[image, point] - offsets).abs().sum(), count),
        }

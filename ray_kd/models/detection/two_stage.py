"""How Faster R-CNN's tensors are read: proposals first, then the classes of what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.models.detection.anchors import BOX_SCALES, decode, objects_of
from ray_kd.models.detection.head import Head, Parts, tensor_of
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full

KNEE = 1 / 9
"""Where the smooth L1 of offsets turns from square to straight."""


class TwoStageHead(Head):
    r"""Reads ``extra["objectness"]`` (N, L, 1) and ``extra["regression"]`` (N, L, 4) of the proposal network,
    and asks the second stage about regions of ``Outputs.features``.

    There are no ``logits``: classes belong to proposals, which differ from network to network. To compare a
    student with a teacher, ask both about the teacher's proposals, ``extra["proposals"]``: ``roi``.

    Loss: cross-entropy of objectness and smooth L1 of offsets over sampled anchors, the same for classes
    and offsets of sampled proposals, each over the samples of all ranks, as torchvision has it. Sampling
    draws from the global stream; outside training it draws the same each time.

    Source: Ren et al., NeurIPS 2015, arXiv 1506.01497.

    Args:
        rpn, roi_heads: torchvision's modules.
        level_sizes, priors, image_size, **selection: see ``Head``.
    """

    def __init__(
        self,
        rpn: Any,
        roi_heads: Any,
        level_sizes: tuple[tuple[int, int], ...],
        priors: Tensor,
        image_size: tuple[int, int],
        **selection: Any,
    ) -> None:
        super().__init__(level_sizes, priors, image_size, **selection)
        self.rpn, self.roi_heads = rpn, roi_heads

    def boxes(self, outputs: Outputs) -> Tensor:
        return decode(full(tensor_of(outputs, "regression")), self.priors, BOX_SCALES)

    def positives(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return self._anchors(batch)[0] > 0

    def proposals(self, outputs: Outputs, most: int) -> Tensor:
        """The best proposals (N, most, 4), best first, without gradient; a box of no area fills up."""
        rows = self._proposals(outputs)
        filled = self.priors.new_zeros(len(rows), most, 4)
        for row, boxes in enumerate(rows):
            filled[row, : len(boxes)] = boxes[:most]
        return filled

    def roi(self, outputs: Outputs, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """What the second stage says about regions of the images.

        Args:
            outputs: of the network that made this head.
            proposals: regions (N, n, 4).

        Returns:
            Class logits (N, n, K + 1), the background first, and offsets for each of them (N, n, K + 1, 4).
        """
        logits, offsets = self._second_stage(outputs, list(proposals.float()))
        shape = proposals.shape[:2]
        return logits.unflatten(0, shape), offsets.unflatten(0, shape)

    @torch.no_grad()
    def detections(self, outputs: Outputs) -> dict[str, Tensor]:
        proposals = self.proposals(outputs, self.rpn.post_nms_top_n())
        logits, offsets = self.roi(outputs, proposals)
        logits, offsets = logits.float(), offsets.float()
        there = (proposals[..., 2:] > proposals[..., :2]).all(-1)
        scores = logits.softmax(-1)[..., 1:] * there.unsqueeze(-1)
        around = proposals.unsqueeze(2).expand_as(offsets)
        boxes = decode(offsets.flatten(1, 2), around.flatten(1, 2), self.roi_heads.box_coder.weights)
        return self.select(boxes.view_as(offsets)[:, :, 1:], scores, [proposals.shape[1]])

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return self.total(self.parts(outputs, batch))

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts:
        with _repeatable(self.rpn, self.priors.device):
            with exact(self.priors):
                first = self._first_parts(outputs, batch)
            targets = objects_of(batch, background=1)
            chosen, _, labels, goal = self.roi_heads.select_training_samples(
                self._proposals(outputs), targets
            )
            logits, offsets = self._second_stage(outputs, chosen)
            with exact(self.priors):
                return first | _second_parts(full(logits), full(offsets), labels, goal)

    def _first_parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts:
        objectness, regression = (full(tensor_of(outputs, name)) for name in ("objectness", "regression"))
        labels, boxes = self._anchors(batch)
        anchors = self.priors.expand_as(boxes)
        goal = self.rpn.box_coder.encode_single(boxes.flatten(0, 1), anchors.flatten(0, 1)).view_as(boxes)
        yes, no = (torch.stack(masks) > 0 for masks in self.rpn.fg_bg_sampler(list(labels)))
        read = yes | no
        count = read.sum()
        seen = F.binary_cross_entropy_with_logits(objectness[..., 0][read], labels[read], reduction="sum")
        off = F.smooth_l1_loss(regression[yes], goal[yes], beta=KNEE, reduction="sum")
        return {"objectness": (seen, count), "proposal": (off, count)}

    def _anchors(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Whether each anchor is an object's (N, L): 1, 0, -1 for neither; and the object's box (N, L, 4)."""
        targets = objects_of(batch)
        labels, boxes = self.rpn.assign_targets_to_anchors([self.priors] * len(targets), targets)
        return torch.stack(labels), torch.stack(boxes)

    @torch.no_grad()
    def _proposals(self, outputs: Outputs) -> list[Tensor]:
        objectness = tensor_of(outputs, "objectness").float()
        boxes, sizes = self.boxes(outputs).float(), [self.image_size] * len(objectness)
        found: list[Tensor] = self.rpn.filter_proposals(boxes, objectness.flatten(), sizes, self.counts)[0]
        return found

    def _second_stage(self, outputs: Outputs, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and offsets (R, K + 1, 4) of all images' regions."""
        maps = {str(level): feature for level, feature in enumerate(outputs.features)}
        pooled = self.roi_heads.box_roi_pool(maps, regions, [self.image_size] * len(regions))
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits, offsets.unflatten(1, (-1, 4))


def _second_parts(logits: Tensor, offsets: Tensor, labels: list[Tensor], goal: list[Tensor]) -> Parts:
    label, to = torch.cat(labels), torch.cat(goal)
    count = torch.tensor(len(label), device=label.device)
    some = (label > 0).nonzero().squeeze(1)
    off = F.smooth_l1_loss(offsets[some, label[some]], to[some], beta=KNEE, reduction="sum")
    return {"class": (F.cross_entropy(logits, label, reduction="sum"), count), "box": (off, count)}


@contextmanager
def _repeatable(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block a module that does not train draws from one and the same stream."""
    if module.training:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield

"""What all detection heads share: sums of losses, and detections from scores and boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact
from ray_kd.paths.gather import normaliser

Parts = dict[str, tuple[Tensor, Tensor]]
"""Terms of a loss by name: a sum, and the count that it is to be divided by."""

CANDIDATES = 1000
"""Predictions of a level that non-maximum suppression looks at, at most: the best."""


class Head(ABC):
    """The base of detection heads; see ``outputs.DetectionHead``.

    Args:
        level_sizes: height and width of each level.
        priors: the box (L, 4) that each position starts from.
        image_size: height and width in pixels; detections are cut off there.
        least_score: predictions with a lower score are no detections.
        overlap: IoU above which the lesser of two detections of a class is dropped.
        most: detections of an image, at most.
    """

    def __init__(
        self,
        level_sizes: tuple[tuple[int, int], ...],
        priors: Tensor,
        image_size: tuple[int, int],
        *,
        least_score: float,
        overlap: float,
        most: int,
    ) -> None:
        self.level_sizes, self.priors, self.image_size = level_sizes, priors, image_size
        self.least_score, self.overlap, self.most = least_score, overlap, most

    @abstractmethod
    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Parts: ...

    def assigned(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The object that each position is trained to find, (N, L); below 0: none."""
        raise TypeError(f"{type(self).__name__} implements neither assigned nor positives")

    def positives(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return self.assigned(batch) >= 0

    @abstractmethod
    def boxes(self, outputs: Outputs) -> Tensor: ...

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        """Every part's sum over its global count, added up; a connected zero where nothing counts."""
        with exact(self.priors):
            return self.total(self.parts(outputs, batch))

    @staticmethod
    def total(parts: Parts) -> Tensor:
        """The loss of a rank's parts; every rank has to come here."""
        sums, counts = (torch.stack([part[i].float() for part in parts.values()]) for i in (0, 1))
        return (sums / normaliser(counts)).sum()

    @torch.no_grad()
    def detections(self, outputs: Outputs) -> dict[str, Tensor]:
        """boxes (N, M, 4), scores (N, M), labels (N, M), best first; label -1 where there is none."""
        return self.select(self.boxes(outputs).float(), self.scores(outputs), self.counts)

    @property
    def counts(self) -> list[int]:
        """Positions of each level."""
        points = [height * width for height, width in self.level_sizes]
        return [count * (len(self.priors) // sum(points)) for count in points]

    def scores(self, outputs: Outputs) -> Tensor:
        """How sure the detector is of each class at each position, (N, L, K) in [0, 1]."""
        return tensor_of(outputs, "logits").float().sigmoid()

    def select(self, boxes: Tensor, scores: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        """The best predictions of each image, after non-maximum suppression class by class.

        Args:
            boxes: one for each position (N, L, 4), or for each of its classes (N, L, K, 4).
            scores: (N, L, K).
            counts: positions of each level; each level names its best ``CANDIDATES``.
        """
        height, width = self.image_size
        boxes = boxes.clamp_min(0).minimum(boxes.new_tensor([width, height, width, height]))
        rows = [self._select_one(*one, counts) for one in zip(boxes, scores, strict=True)]
        # Of one size whatever is found, so that a teacher's detections can be stored.
        return {name: torch.stack([_padded(row[name], self.most, name) for row in rows]) for name in rows[0]}

    def _select_one(self, boxes: Tensor, scores: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
        from torchvision.ops import batched_nms  # three seconds of import, only where it is used

        classes, start, kept = scores.shape[1], 0, []
        for level in scores.split(list(counts)):
            best, index = level.flatten().topk(min(CANDIDATES, level.numel()))
            kept.append(index[best >= self.least_score] + start * classes)
            start += len(level)
        index = torch.cat(kept)
        point, label, best = index // classes, index % classes, scores.flatten()[index]
        found = boxes[point] if boxes.dim() == 2 else boxes[point, label]
        keep = batched_nms(found, best, label, self.overlap)[: self.most]
        return {"boxes": found[keep], "scores": best[keep], "labels": label[keep]}


def matches(assigned: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image and number of each position that is to find an object, and the object's box and class."""
    image, point = (assigned >= 0).nonzero(as_tuple=True)
    chosen = assigned[image, point]
    return image, point, batch["boxes"][image, chosen], batch["box_label"][image, chosen]


def objects(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (N, M, 4) and classes (N, M) to be found: -1 for padding, and for crowds, which teach nothing.

    Raises:
        UserError: the batch lacks them.
    """
    for name in ("boxes", "box_label"):
        if name not in batch:
            raise UserError(f"detection needs batch['{name}'], got {sorted(batch)}.")
    label = batch["box_label"]
    if "crowd" in batch:
        label = label.masked_fill(batch["crowd"].bool(), -1)
    return batch["boxes"], label


def tensor_of(outputs: Outputs, name: str) -> Tensor:
    """``logits``, or an entry of ``extra``.

    Raises:
        UserError: the outputs lack it.
    """
    found = outputs.logits if name == "logits" else outputs.extra.get(name)
    if found is None:
        raise UserError(
            f"detection needs a model that gives {name}; its outputs hold {sorted(outputs.extra)}."
        )
    return found


def _padded(values: Tensor, size: int, name: str) -> Tensor:
    padded = values.new_full((size, *values.shape[1:]), -1 if name == "labels" else 0)
    padded[: len(values)] = values
    return padded

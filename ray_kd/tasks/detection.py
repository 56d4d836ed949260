"""Object detection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.boxes import area, intersection, pairwise_iou
from ray_kd.config.errors import UserError
from ray_kd.config.options import Options
from ray_kd.config.registry import TASKS
from ray_kd.outputs import DetectionHead, Outputs
from ray_kd.paths.detectors import binary_divergence
from ray_kd.tasks.base import AddUp, GatherObjects, Task
from ray_kd.tasks.coco import average_precision

CONSIDERED = 0.05
"""Positions whose best class is less probable than this for the teacher are background; ``kl`` skips them."""
MATCH = 0.5
"""IoU from which two boxes count as one object, for ``agreement_wrong``."""


class DetectionOptions(Options):
    """Options of object detection."""

    sure: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Lowest score of the teacher's detections that the student should agree with."""


@TASKS.register("detection")
class Detection(Task):
    """The detector's own loss; COCO's mean average precision; fidelity to the teacher.

    ``map``, ``map50``, ``map75``, ``map_small``, ``map_medium``, ``map_large``: as
    ``tasks.coco.average_precision`` says. ``loss`` is the training loss over the whole split, with
    normalisers over the whole split.

    Fidelity: ``agreement`` is the student's ``map`` against the teacher's detections of a score of
    ``sure`` at least, as if they were the truth. ``kl``, of dense detectors with the same places: KL(teacher
    || student) in nats of each class's yes or no, added up over classes, mean over the places where the
    teacher's best class has a probability of 0.05 at least. ``agreement_wrong``: of those detections of the
    teacher that are no object (no object of that class with an IoU of 0.5, crowds included), the share that
    the student repeats (a detection of that class and of a score of ``sure`` with an IoU of 0.5). Each is
    left out where there is nothing to measure it on.
    """

    monitor: ClassVar[str] = "map"
    Options = DetectionOptions

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return head_of(outputs).loss(outputs, batch)

    def predictions(self, teacher: Outputs) -> Outputs:
        """The teacher's detections, and its logits."""
        return Outputs(logits=teacher.logits, extra=head_of(teacher).detections(teacher))

    def as_outputs(self, predictions: Outputs) -> Outputs:
        """Outputs that hold the detections; they have no loss."""
        return Outputs(extra=predictions.extra, head=cast(DetectionHead, DetectionsHead()))

    def meter(self) -> DetectionMeter:
        return DetectionMeter(self)

    def chance(self, metrics: Mapping[str, float]) -> str | None:
        if metrics.get("map50", 1.0) >= 0.01:  # undefined if no image has an object
            return None
        return f"mAP50 {metrics['map50']:.4f}, where boxes at random give about 0"


class DetectionsHead:
    """The head of outputs that already are detections."""

    def detections(self, outputs: Outputs) -> dict[str, Tensor]:
        return outputs.extra

    def parts(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {}


class DetectionMeter:
    """Keeps every image's objects and detections; precision is computed once, on all ranks' images."""

    def __init__(self, task: Detection) -> None:
        self.task = task
        self.images: list[dict[str, Any]] = []
        self.sums: defaultdict[str, float] = defaultdict(float)

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None) -> None:
        head = head_of(outputs)
        for name, (total, count) in head.parts(outputs, batch).items():
            self.sums[f"loss sum/{name}"] += float(total)
            self.sums[f"loss count/{name}"] += float(count)
        found = head.detections(outputs)
        truth = {"boxes": batch["boxes"], "labels": batch["box_label"]}
        truth |= {name: batch[name] for name in ("area", "crowd") if name in batch}
        told = {} if teacher is None else _sure(teacher.extra, self.task.options.sure)
        if teacher is not None:
            self._compare(outputs, found, truth, teacher, told)
        for row, sample in enumerate(batch["sample"].tolist()):
            self.images.append(
                {
                    "sample": sample,
                    **{
                        name: _row(values, row)
                        for name, values in (("truth", truth), ("found", found), ("told", told))
                        if values
                    },
                }
            )

    def _compare(
        self,
        outputs: Outputs,
        found: Mapping[str, Tensor],
        truth: Mapping[str, Tensor],
        teacher: Outputs,
        told: Mapping[str, Tensor],
    ) -> None:
        wrong = (told["labels"] >= 0) & ~(_matches(told, truth) | _in_crowd(told, truth))
        self.sums["wrong"] += int(wrong.sum())
        self.sums["repeated"] += int((wrong & _matches(told, _sure(found, self.task.options.sure))).sum())
        judge, own = teacher.logits, outputs.logits
        if judge is not None and own is not None and judge.shape == own.shape:
            judge, own = judge.float(), own.float()
            read = judge.sigmoid().amax(-1) >= CONSIDERED
            self.sums["kl"] += float(binary_divergence(own[read], judge[read]).sum())
            self.sums["places"] += int(read.sum())

    def result(self, add_up: AddUp, gather: GatherObjects) -> dict[str, float]:
        gathered = gather((self.images, self.sums))
        sums: defaultdict[str, float] = defaultdict(float)
        for _, part in gathered:
            for name, value in part.items():
                sums[name] += value
        images = sorted((image for part, _ in gathered for image in part), key=lambda image: image["sample"])
        truth, found = ([image[name] for image in images] for name in ("truth", "found"))
        metrics = {"loss": _loss(sums), **average_precision(truth, found, self.task.classes)}
        told = [image["told"] for image in images if "told" in image]
        if any(len(rows["labels"]) for rows in told):
            metrics["agreement"] = average_precision(told, found, self.task.classes)["map"]
        if sums["places"]:
            metrics["kl"] = sums["kl"] / sums["places"]
        if sums["wrong"]:
            metrics["agreement_wrong"] = sums["repeated"] / sums["wrong"]
        return metrics


def head_of(outputs: Outputs) -> DetectionHead:
    """The detector's head.

    Raises:
        UserError: the outputs are not those of a detector.
    """
    if outputs.head is None:
        raise UserError("task detection: the model's Outputs hold no head, so it is no detector.")
    return outputs.head


def _sure(rows: Mapping[str, Tensor], least: float) -> dict[str, Tensor]:
    """Detections in which those of a lower score have label -1."""
    return {**rows, "labels": rows["labels"].masked_fill(rows["scores"] < least, -1)}


def _matches(rows: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """Whether each box of ``rows`` (N, n) matches a box of its class among ``others`` (N, m)."""
    same = rows["labels"].unsqueeze(2) == others["labels"].unsqueeze(1)
    near = pairwise_iou(rows["boxes"].float(), others["boxes"].float()) >= MATCH
    return (same & near & (rows["labels"] >= 0).unsqueeze(2)).any(2)


def _in_crowd(rows: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
    """Whether at least half of each box of ``rows`` (N, n) lies in a crowd of its class."""
    if "crowd" not in truth:
        return torch.zeros_like(rows["labels"], dtype=torch.bool)
    same = rows["labels"].unsqueeze(2) == truth["labels"].unsqueeze(1)
    own = rows["boxes"].float().unsqueeze(2)
    shared = intersection(own, truth["boxes"].float().unsqueeze(1))
    return (same & truth["crowd"].bool().unsqueeze(1) & (shared >= MATCH * area(own))).any(2)


def _row(values: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One image's rows without padding, on the CPU."""
    there = values["labels"][row] >= 0
    return {name: columns[row][there].cpu() for name, columns in values.items()}


def _loss(sums: Mapping[str, float]) -> float:
    parts = [name.partition("/")[2] for name in sums if name.startswith("loss count/")]
    return sum(sums[f"loss sum/{name}"] / max(1.0, sums[f"loss count/{name}"]) for name in parts)

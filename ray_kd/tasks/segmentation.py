"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import TASKS
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths.base import full, logits_of
from ray_kd.paths.gather import normaliser
from ray_kd.tasks.base import SmoothingOptions, Task
from ray_kd.tasks.fidelity import fidelity_metrics, fidelity_sums


class SegmentationOptions(SmoothingOptions):
    """Options of semantic segmentation."""


@TASKS.register("segmentation")
class Segmentation(Task):
    """Cross-entropy of pixels; mean IoU, pixel accuracy, fidelity to the teacher pixel by pixel.

    Logits (N, K, h, w) are resized to the mask's resolution, bilinearly, without aligned corners. The loss
    and all metrics ignore pixels whose class is IGNORE; all other pixels have the same weight, whatever image
    and rank they are on.

    ``iou_class<i>`` is the intersection over union of class i over all pixels of a split, and ``miou`` its
    mean over the classes that occur in the truth or in the prediction: a class that is in neither has no IoU
    and is left out. Where no pixel has a class, the loss and all rates are 0. ``kl``,
    ``agreement`` and ``agreement_wrong`` are of pixels, as ``tasks.fidelity`` says.
    """

    monitor: ClassVar[str] = "miou"
    Options = SegmentationOptions

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        mask = batch["mask"]
        logits = upsampled(logits_of(outputs, self.name), mask)
        smoothing = self.options.smoothing
        total = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)
        return total / normaliser((mask != IGNORE).sum())

    def sums(
        self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None
    ) -> dict[str, Tensor]:
        mask = batch["mask"]
        valid = mask != IGNORE
        label = mask[valid]
        logits = _pixels(logits_of(outputs, self.name), mask, valid)
        pairs = label * self.classes + logits.argmax(dim=1)
        confusion = torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)
        sums = {
            "confusion": confusion,
            "loss": F.cross_entropy(logits, label, reduction="sum").double(),
        }
        if teacher is not None:
            judge = _pixels(logits_of(teacher, self.name), mask, valid)
            sums["fidelity"] = fidelity_sums(logits, judge, label).double()
        return sums

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        confusion = sums["confusion"].double()
        hits, count = confusion.diagonal(), confusion.sum().clamp_min(1)
        union = confusion.sum(0) + confusion.sum(1) - hits
        iou = {index: float(hits[index] / union[index]) for index in union.nonzero().flatten().tolist()}
        found = {
            "loss": float(sums["loss"] / count),
            "miou": sum(iou.values()) / max(1, len(iou)),
            "pixel_accuracy": float(hits.sum() / count),
        }
        found.update({f"iou_class{index}": value for index, value in iou.items()})
        if "fidelity" in sums:
            found.update(fidelity_metrics(sums["fidelity"]))
        return found

    def chance(self, metrics: Mapping[str, float]) -> str | None:
        present = sum(name.startswith("iou_class") for name in metrics)
        most = 1 / max(1, present)
        if present < 2 or metrics["miou"] > most:
            return None
        return (
            f"mIoU {metrics['miou']:.4f}, where one and the same class for every pixel gives up to {most:.4f}"
        )


def upsampled(logits: Tensor, mask: Tensor) -> Tensor:
    """Logits (N, K, h, w) at a mask's resolution, in float32 at least."""
    size = mask.shape[-2:]
    if logits.shape[-2:] == size:
        return full(logits)
    return F.interpolate(full(logits), size=size, mode="bilinear", align_corners=False)


def _pixels(logits: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
    """Logits (P, K) of the pixels that have a class."""
    return upsampled(logits, mask).movedim(1, -1)[valid]

"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import TASKS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import logits_of
from ray_kd.tasks.base import SmoothingOptions, Task
from ray_kd.tasks.fidelity import calibration_error, calibration_sums, fidelity_metrics, fidelity_sums


class ClassificationOptions(SmoothingOptions):
    """Options of classification."""


@TASKS.register("classification")
class Classification(Task):
    """Cross-entropy; top-1 and top-5 accuracy, calibration, fidelity to the teacher.

    ``agreement`` is the share of samples where the student's first class is the teacher's first class,
    ``agreement5`` where it is among the student's first five (Chennupati et al., arXiv 2110.09674);
    ``kl`` and ``agreement_wrong`` as ``tasks.fidelity`` says. ``ece`` is the expected calibration
    error over 15 bins of equal width (Guo et al., ICML 2017, arXiv 1706.04599).

    A label may be a class (N,), or shares of classes (N, K) where views mix samples.
    """

    monitor: ClassVar[str] = "top1"
    Options = ClassificationOptions

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        smoothing = self.options.smoothing
        return F.cross_entropy(logits_of(outputs, self.name), batch["label"], label_smoothing=smoothing)

    def sums(
        self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None
    ) -> dict[str, Tensor]:
        logits, label = logits_of(outputs, self.name).float(), batch["label"]
        first = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = first == label.unsqueeze(1)
        sums = {
            "count": torch.tensor(float(len(label))),
            "loss": F.cross_entropy(logits, label, reduction="sum"),
            "top1": hits[:, 0].sum(),
            "top5": hits.sum(),
            "calibration": calibration_sums(logits, label),
        }
        if teacher is not None:
            judge = logits_of(teacher, self.name).float()
            sums["agreement5"] = (first == judge.argmax(dim=1, keepdim=True)).sum()
            sums["fidelity"] = fidelity_sums(logits, judge, label)
        return sums

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        names = ("loss", "top1", "top5", "agreement5")
        found = {name: float(sums[name] / sums["count"]) for name in names if name in sums}
        found["ece"] = calibration_error(sums["calibration"])
        if "fidelity" in sums:
            found.update(fidelity_metrics(sums["fidelity"]))
        return found

    def chance(self, metrics: Mapping[str, float]) -> str | None:
        if metrics["top1"] > 1.5 / self.classes:
            return None
        return f"top-1 {metrics['top1']:.4f}, where guessing gives {1 / self.classes:.4f}"

"""Image classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import Options
from ray_kd.config.registry import TASKS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import logits_of
from ray_kd.tasks.base import Task


class ClassificationOptions(Options):
    """Options of classification."""


@TASKS.register("classification")
class Classification(Task):
    """Cross-entropy; top-1 and top-5 accuracy; agreement with the teacher.

    ``agreement`` is the share of samples where the student's first class is the teacher's,
    ``agreement5`` where the student's first five hold it (Chennupati et al., arXiv 2110.09674).
    """

    monitor: ClassVar[str] = "top1"
    Options = ClassificationOptions

    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits_of(outputs, self.name), batch["label"])

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
        }
        if teacher is not None:
            same = first == logits_of(teacher, self.name).argmax(dim=1, keepdim=True)
            sums["agreement"], sums["agreement5"] = same[:, 0].sum(), same.sum()
        return sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {name: value / sums["count"] for name, value in sums.items() if name != "count"}

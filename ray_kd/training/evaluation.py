"""Metrics of a student on a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ray_kd.data.base import Split
from ray_kd.data.batches import in_order
from ray_kd.outputs import Outputs
from ray_kd.tasks import Task
from ray_kd.training.ranks import add_up
from ray_kd.training.setting import Setting


@torch.no_grad()
def evaluate(
    student: nn.Module, task: Task, split: Split, answers: Sequence[Outputs] | None, setting: Setting
) -> dict[str, float]:
    """The task's metrics on a whole split; every rank takes a share, and all get the whole.

    Args:
        answers: the teacher's outputs for each evaluation batch, for agreement; None: no teacher.
    """
    was_training = student.training
    student.eval()
    sums: dict[str, Tensor] = {}
    for index, batch in enumerate(in_order(split, setting.device, setting.rank, setting.world)):
        outputs = cast(Outputs, student(batch["image"]))
        for name, value in task.sums(outputs, batch, answers[index] if answers else None).items():
            sums[name] = sums[name] + value if name in sums else value
    student.train(was_training)
    return task.metrics(add_up(sums, setting.world, setting.device))

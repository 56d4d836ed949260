"""Metrics of a student on a split."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from ray_kd.data.base import Split
from ray_kd.data.batches import in_order
from ray_kd.data.loading import Loader
from ray_kd.outputs import Outputs
from ray_kd.tasks import Task, TeacherPredictions
from ray_kd.tasks.base import Meter
from ray_kd.training.distributed import add_up, gather_objects
from ray_kd.training.run_context import RunContext


@torch.no_grad()
def evaluate(
    student: nn.Module,
    task: Task,
    split: Split,
    predictions: TeacherPredictions | None,
    context: RunContext,
    loader: Loader | None = None,
) -> dict[str, float]:
    """The task's metrics on a whole split; every rank evaluates a part, and all get the result.

    Args:
        predictions: the teacher's predictions for each evaluation batch, for fidelity; None: no teacher.
    """
    was_training = student.training
    student.eval()
    meter = task.meter()
    batches = in_order(split, context.device, context.rank, context.world, loader=loader)
    for index, batch in enumerate(batches):
        outputs = cast(Outputs, student(batch["image"]))
        meter.update(outputs, batch, predictions(index, batch) if predictions else None)
    student.train(was_training)
    return _result(meter, context)


@torch.no_grad()
def evaluate_predictions(
    predictions: TeacherPredictions, task: Task, split: Split, context: RunContext
) -> dict[str, float]:
    """The task's metrics of a teacher's predictions."""
    meter = task.meter()
    for index, batch in enumerate(in_order(split, context.device, context.rank, context.world)):
        meter.update(task.as_outputs(predictions(index, batch)), batch, None)
    return _result(meter, context)


def _result(meter: Meter, context: RunContext) -> dict[str, float]:
    return meter.result(
        partial(add_up, world=context.world, device=context.device),
        partial(gather_objects, world=context.world),
    )

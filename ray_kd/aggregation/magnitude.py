"""Scale the losses to one magnitude."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class MagnitudeOptions(AggregatorOptions):
    """Options of magnitude matching."""

    reference: Literal["task", "mean"] = "task"
    """The magnitude of every path's loss: the task loss's, or the mean over the paths."""
    floor: Annotated[float, Field(gt=0)] = 1e-8
    """Smallest divisor."""


@AGGREGATORS.register("magnitude", source="common practice")
class Magnitude(Aggregator):
    r"""Magnitude matching: factors :math:`w_i \, sg[L_{ref} / |L_i|]`: each path's term is as large as the
    reference.

    With the task loss as the reference, distillation fades as the task is fitted. ``inverse``, whose
    reference is 1, does not fade.
    """

    Options = MagnitudeOptions
    static_weights: ClassVar = "preference"

    def combine(self, task_loss: Tensor, raw: Tensor) -> Update:
        with torch.no_grad():
            size = raw.abs().clamp_(min=self.options.floor)
            reference = task_loss.abs() if self.options.reference == "task" else raw.abs().mean()
            factors = self.strength * (reference / size)
        return self.weighted_sum(task_loss, raw, factors)

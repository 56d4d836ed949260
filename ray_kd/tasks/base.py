"""The base of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ray_kd.config.options import Options as AnyOptions
from ray_kd.outputs import Outputs

TeacherPredictions = Callable[[int, Mapping[str, Tensor]], Outputs]
"""The teacher's answer to evaluation batch number i, which is given."""
AddUp = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Adds tensors up over ranks; float64 on the CPU."""
GatherObjects = Callable[[Any], list[Any]]
"""Every rank's picklable object, in the order of ranks."""


class Meter(Protocol):
    """Reads a split batch by batch and says how good the student is on it."""

    def update(self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None) -> None:
        """Read one batch; ``teacher`` is what ``Task.predictions`` kept of its outputs."""
        ...

    def result(self, add_up: AddUp, gather: GatherObjects) -> dict[str, float]:
        """The metrics on all ranks' batches together, the same on every rank."""
        ...


class Task(ABC):
    """A loss on labels, and metrics.

    Where metrics are computed from sums over samples, ``sums`` and ``metrics`` are all a task needs;
    another kind of metric brings a ``meter`` of its own.

    Args:
        options: the task's own ``Options``.
        classes: how many classes there are.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    Options: ClassVar[type[AnyOptions]] = AnyOptions
    monitor: ClassVar[str]
    """The metric that chooses the best epoch."""
    mode: ClassVar[Literal["max", "min"]] = "max"

    def __init__(self, options: AnyOptions, classes: int) -> None:
        self.options: Any = options
        self.classes = classes

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        """The scalar task loss; over ranks its mean is the loss of the global batch."""

    def sums(
        self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None
    ) -> dict[str, Tensor]:
        """Sums over the batch's samples that ``metrics`` is computed from, scalars or tables."""
        raise TypeError(f"{type(self).__name__} implements neither sums and metrics nor a meter")

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics from sums over all samples; rates are fractions in [0, 1]."""
        raise TypeError(f"{type(self).__name__} implements neither sums and metrics nor a meter")

    def predictions(self, teacher: Outputs) -> Outputs:
        """What of a teacher's outputs the metrics read; it is kept for a whole split."""
        return Outputs(logits=teacher.logits)

    def as_outputs(self, predictions: Outputs) -> Outputs:
        """What ``predictions`` kept, as outputs that a meter reads: how good is the teacher itself?"""
        return predictions

    def meter(self) -> Meter:
        """A fresh meter."""
        return SumMeter(self)

    def chance(self, metrics: Mapping[str, float]) -> str | None:
        """What is wrong with a teacher of these metrics, where it is no better than chance; else None."""
        return None


class SumMeter:
    """The meter of a task whose metrics are computed from sums."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sums: dict[str, Tensor] = {}

    def update(self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None) -> None:
        for name, value in self.task.sums(outputs, batch, teacher).items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def result(self, add_up: AddUp, gather: GatherObjects) -> dict[str, float]:
        return self.task.metrics(add_up(self.sums))

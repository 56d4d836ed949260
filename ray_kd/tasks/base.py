"""The base of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor

from ray_kd.config.options import Options as AnyOptions
from ray_kd.outputs import Outputs

TeacherPredictions = Callable[[int, Mapping[str, Tensor]], Outputs]
"""A teacher's predictions for evaluation batch number i, by (i, batch); see ``Task.predictions``."""
AddUp = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Sums tensors over ranks; float64 on the CPU."""
GatherObjects = Callable[[Any], list[Any]]
"""Gathers every rank's picklable object, in the order of ranks."""


class SmoothingOptions(AnyOptions):
    """Options of tasks whose labels are classes."""

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing (Szegedy et al., CVPR 2016, arXiv 1512.00567) of the training loss: the share of a
    label that goes to all classes alike. Metrics, ``loss`` among them, are of the labels as they are. A
    teacher that is trained for the run trains without it, and teaches better so (Müller et al., NeurIPS 2019,
    arXiv 1906.02629)."""

    def teacher_options(self) -> dict[str, Any]:
        """What differs for the run of a teacher."""
        return {"smoothing": 0.0}


class Meter(Protocol):
    """Reads a split batch by batch and computes the task's metrics on it."""

    def update(self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None) -> None:
        """Read one batch; ``teacher``: the teacher's predictions from ``Task.predictions``, or None."""
        ...

    def result(self, add_up: AddUp, gather: GatherObjects) -> dict[str, float]:
        """The metrics on all ranks' batches together; every rank gets the same."""
        ...


class Task(ABC):
    """The base class of tasks: a loss on labels, and metrics.

    A task whose metrics are computed from sums over samples implements ``sums`` and ``metrics``; other
    metrics need a ``meter`` of their own.

    Example:
        >>> import torch
        >>> from ray_kd.plugin import Options, Outputs, Task, register_task
        >>> class ExampleOptions(Options):
        ...     pass
        >>> @register_task("example_task")
        ... class Example(Task):
        ...     Options, monitor = ExampleOptions, "hits"
        ...     def loss(self, outputs, batch):
        ...         return torch.nn.functional.cross_entropy(outputs.logits, batch["label"])
        ...     def sums(self, outputs, batch, teacher):
        ...         hits = outputs.logits.argmax(1) == batch["label"]
        ...         return {"hits": hits.sum(), "count": torch.tensor(len(hits))}
        ...     def metrics(self, sums):
        ...         return {"hits": float(sums["hits"] / sums["count"])}
        >>> Example(ExampleOptions(), classes=10).chance({"hits": 0.1}) is None
        True
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
        """The scalar task loss; its mean over ranks is the loss of the global batch."""

    def sums(
        self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None
    ) -> dict[str, Tensor]:
        """Sums over the batch's samples that ``metrics`` is computed from, scalars or tables."""
        raise TypeError(f"{type(self).__name__} implements neither sums and metrics nor a meter")

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics from sums over all samples; rates are fractions in [0, 1]."""
        raise TypeError(f"{type(self).__name__} implements neither sums and metrics nor a meter")

    def predictions(self, teacher: Outputs) -> Outputs:
        """The part of a teacher's outputs that the metrics read; it is kept for a whole split."""
        return Outputs(logits=teacher.logits)

    def as_outputs(self, predictions: Outputs) -> Outputs:
        """Predictions as outputs that a meter reads, to compute the teacher's own metrics."""
        return predictions

    def meter(self) -> Meter:
        """A new meter."""
        return SumMeter(self)

    def chance(self, metrics: Mapping[str, float]) -> str | None:
        """A message if a teacher with these metrics is no better than chance; else None."""
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

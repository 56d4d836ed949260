"""The base of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from ray_kd.config.options import Options as AnyOptions
from ray_kd.outputs import Outputs


class Task(ABC):
    """A loss on labels, and metrics that are sums over samples, so that ranks can add them up.

    Args:
        options: the task's own ``Options``.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    Options: ClassVar[type[AnyOptions]] = AnyOptions
    monitor: ClassVar[str]
    """The metric that chooses the best epoch."""
    mode: ClassVar[Literal["max", "min"]] = "max"

    def __init__(self, options: AnyOptions) -> None:
        self.options: Any = options

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Mapping[str, Tensor]) -> Tensor:
        """The scalar task loss, a mean over the batch."""

    @abstractmethod
    def sums(
        self, outputs: Outputs, batch: Mapping[str, Tensor], teacher: Outputs | None
    ) -> dict[str, Tensor]:
        """Sums over the batch's samples that ``metrics`` is computed from; ``count`` among them."""

    @abstractmethod
    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The metrics from sums over all samples; rates are fractions in [0, 1]."""

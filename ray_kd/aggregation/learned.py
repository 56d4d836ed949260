"""Methods that learn one log-weight for each loss beside the student."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions


class LearnedOptions(AggregatorOptions):
    """Options of methods that learn log-weights."""

    verbatim: bool = False
    """As published: the log-weights join the student's optimizer group, without bounds or running means."""
    lr: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Learning rate of the log-weights, and the largest change of one in a step."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of each loss that drives the log-weights; 0: the batch's own loss."""
    limit: Annotated[float, Field(gt=0)] = 7.0
    """Log-weights stay within +-limit; 7 allows factors from 1/1100 to 1100."""


class Learned(Aggregator):
    """Log-weights a learned with the student from an objective ``f(a) w L + r(a)``.

    ``verbatim: true`` is exactly that objective, times k, with a under the student's own optimizer
    settings (learning rate, momentum, weight decay): pass ``param_groups()`` to the optimizer. The
    default, which is more stable, minimises the same objective with its own gradient steps, one after each
    update, and needs no optimizer. Its deviations from the publications:

    - plain gradient descent with a constant rate, no momentum, no weight decay;
    - a running mean of each loss drives a (bias-corrected, decay 0.9), not the noise of one batch;
    - the slope is clipped to [-1, 1] and does not contain k, so that no step moves a by more than ``lr``:
      unclipped, a loss of 100 moves a from 0 beyond its limit in one step, and k > 20 oscillates;
    - a stays within +-limit.

    Clipping does not move a fixed point, since the slope is 0 there.
    """

    Options: ClassVar[type[AggregatorOptions]] = LearnedOptions
    traits: ClassVar[frozenset[str]] = frozenset({"stateful", "scale_free"})
    running: Tensor

    def setup(self) -> None:
        alpha = torch.zeros(len(self.names))
        if self.options.verbatim:
            self.alpha: Tensor = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha)
        self.register_buffer("running", torch.zeros(len(self.names)))

    @abstractmethod
    def factor(self, alpha: Tensor) -> Tensor:
        """f(a), the factor on each scaled loss."""

    @abstractmethod
    def slope(self, alpha: Tensor, weighted: Tensor) -> Tensor:
        """The objective's derivative in a, given ``weighted = f(a) w L``."""

    @abstractmethod
    def regulariser(self, alpha: Tensor) -> Tensor:
        """r(a)."""

    def combine(self, task_loss: Tensor, raw: Tensor) -> Update:
        options, alpha = self.options, self.alpha
        if options.verbatim:
            factors = self.factor(alpha)
            scaled = raw if self._uniform else raw * self.static
            total = task_loss + options.k * (factors * scaled + self.regulariser(alpha)).sum()
            return Update(self.names, factors.detach() * self.strength, total=total)
        with torch.no_grad():
            factors = self.factor(alpha)
            scaled = raw if self._uniform else raw * self.static
            self.running.lerp_(scaled.to(alpha.dtype), 1 - options.smoothing)
            mean = self.running / (1 - options.smoothing**self.steps)
            slope = self.slope(alpha, factors * mean).clamp_(-1, 1)
            alpha.sub_(slope, alpha=options.lr).clamp_(-options.limit, options.limit)
            factors *= self.strength
        return self.weighted_sum(task_loss, raw, factors)

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.alpha], "optimizer": "main"}] if self.options.verbatim else []

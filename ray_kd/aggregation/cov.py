"""Coefficient of variation of loss ratios."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-12


class CovOptions(AggregatorOptions):
    """Options of the coefficient of variation."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the running means; None: means over all steps so far."""


@AGGREGATORS.register("cov", source="Groenendijk et al. (CoV-Weighting), WACV 2021, arXiv 2009.01717")
class Cov(Aggregator):
    r"""CoV-Weighting: factors :math:`c_i / \sum_j c_j`, c the standard deviation over the mean of
    :math:`L_i(t) / \bar L_i(t-1)`: a loss that still varies gets more weight. They sum to 1.

    Running statistics by Welford's method, as the published code keeps them: the factors of a step come
    from the steps before it, the first two steps have 1/n, and 1e-8 is added to each variance.

    Source: Groenendijk, Karaoglu, Gevers, Mensink, WACV 2021, arXiv 2009.01717 and its code.
    Deviations: the task loss is not scaled; the absolute value of each mean is used, for losses below 0.
    """

    Options = CovOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful"})
    statistics: Tensor

    def setup(self) -> None:
        # Rows: mean of the losses, mean of the ratios, sum of squared deviations of the ratios.
        self.register_buffer("statistics", torch.zeros(3, len(self.names)))

    def factors(self, seen: Tensor) -> Tensor:
        loss, mean, deviations = self.statistics.unbind()
        count = self.steps
        ratio = (seen + TINY) / ((loss if count > 1 else seen) + TINY)
        if count <= 2:
            factors = torch.full_like(seen, 1 / len(self.names))
        else:
            variation = (deviations / (count - 1) + 1e-8).sqrt() / mean.abs().clamp(min=TINY)
            factors = variation / variation.sum()
        keep = 0.0 if count == 1 else self.options.decay or 1 - 1 / count
        new = torch.lerp(ratio, mean, keep)
        deviations += (ratio - mean) * (ratio - new)
        mean.copy_(new)
        loss.lerp_(seen.to(loss.dtype), 1 - keep)
        return factors

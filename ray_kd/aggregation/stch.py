"""Smooth Tchebycheff scalarisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class StchOptions(AggregatorOptions):
    """Options of smooth Tchebycheff scalarisation."""

    mu: Annotated[float, Field(gt=0)] = 0.1
    """Smoothness, in units of the weighted losses; smaller: closer to the largest loss alone."""
    ideal: float = 0.0
    """The best value z that each loss may reach."""


@AGGREGATORS.register("stch", source="Lin et al., ICML 2024, arXiv 2402.19078")
class Stch(Aggregator):
    r"""Smooth Tchebycheff: :math:`\mu \ln \sum_i \exp(w_i (L_i - z) / \mu)`, a smooth maximum of the losses.

    As a weighted sum with the same gradient: factors :math:`softmax_i(w_i (L_i - z) / \mu)`, which sum to 1.
    Sensitive to scale: with losses of different size the largest takes all; static weights mend that.

    Source: Lin, Zhang, Yang, Liu, Wang, Zhang, ICML 2024, arXiv 2402.19078. Deviations: the task loss is
    outside; preferences are the static weights (1 each, where the publication has 1/n).
    """

    Options = StchOptions

    def factors(self, seen: Tensor) -> Tensor:
        shifted = seen - self.options.ideal * self.static if self.options.ideal else seen
        return (shifted / self.options.mu).softmax(0)

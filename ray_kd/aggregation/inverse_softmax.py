"""Softmax of inverse losses."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class InverseSoftmaxOptions(AggregatorOptions):
    """Options of the softmax of inverse losses."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T; the publication tunes it for each data set. Larger: closer to equal weights of 1/n."""
    floor: Annotated[float, Field(gt=0)] = 1e-8
    """Smallest divisor."""


@AGGREGATORS.register("inverse_softmax", source="Kirchdorfer et al. (UW-SO), GCPR 2024, arXiv 2408.07985")
class InverseSoftmax(Aggregator):
    r"""UW-SO: factors :math:`softmax_i(1 / (sg[|L_i|] T))`; they sum to 1.

    Sensitive to T and to the scale of the losses: at T = 1 a loss of 0.01 gets all the weight.

    Source: Kirchdorfer, Elich, Kutsche, Stuckenschmidt, Schott, Köhler, GCPR 2024, arXiv 2408.07985.
    Deviations: the task loss is not scaled; the loss's absolute value is used, for losses below 0.
    """

    Options = InverseSoftmaxOptions
    static_weights: ClassVar = "preference"

    def factors(self, seen: Tensor) -> Tensor:
        inverse = seen.abs().clamp_(min=self.options.floor).reciprocal_()
        return inverse.div_(self.options.temperature).softmax(0)

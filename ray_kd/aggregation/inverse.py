"""Inverse of the loss."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class InverseOptions(AggregatorOptions):
    """Options of inverse losses."""

    floor: Annotated[float, Field(gt=0)] = 1e-8
    """Smallest divisor."""


@AGGREGATORS.register("inverse", source="Kirchdorfer et al. (UW-O), GCPR 2024, arXiv 2408.07985")
class Inverse(Aggregator):
    r"""Inverse losses (UW-O): :math:`\sum_i w_i L_i / sg[|L_i|]`: every path contributes w_i at each step.

    The optimum of uncertainty weighting in closed form instead of learnt: the fixed point of ``adaptive``.
    A vanishing loss is amplified up to 1 / floor.

    Source: Kirchdorfer, Elich, Kutsche, Stuckenschmidt, Schott, Köhler, GCPR 2024, arXiv 2408.07985.
    Deviations: the task loss is not scaled; the loss's absolute value is used, for losses below 0.
    """

    Options = InverseOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"scale_free"})

    def factors(self, seen: Tensor) -> Tensor:
        return seen.abs().clamp_(min=self.options.floor).reciprocal_()

"""Equal weights."""

from __future__ import annotations

from typing import ClassVar

from ray_kd.aggregation.fixed import Fixed
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class EqualOptions(AggregatorOptions):
    """Options of equal weights."""


@AGGREGATORS.register("equal", source="the plain sum; Kurin et al., NeurIPS 2022, arXiv 2201.04122")
class Equal(Fixed):
    r"""Equal weights: :math:`L_{task} + k \sum_i L_i`. Dominated by the loss of the largest scale."""

    static_weights: ClassVar = "refused"
    Options = EqualOptions

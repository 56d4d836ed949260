"""Equal weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class EqualOptions(AggregatorOptions):
    """Options of equal weights."""


@AGGREGATORS.register("equal", source="the plain sum; Kurin et al., NeurIPS 2022, arXiv 2201.04122")
class Equal(Aggregator):
    r"""Equal weights: :math:`L_{task} + k \sum_i L_i`. Dominated by the loss of the largest scale."""

    uses_static_weights: ClassVar[bool] = False
    Options = EqualOptions

    def factors(self, scaled: Tensor) -> Tensor:
        return torch.ones_like(scaled)

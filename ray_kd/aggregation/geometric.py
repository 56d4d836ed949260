"""Geometric mean of the losses."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-12


class GeometricOptions(AggregatorOptions):
    """Options of the geometric mean."""


@AGGREGATORS.register("geometric", source="Chennupati et al. (GLS), CVPR workshops 2019, arXiv 1904.08492")
class Geometric(Aggregator):
    r"""Geometric loss strategy (GLS): :math:`L_{task} + k \left(\prod_i L_i\right)^{1/n}`.

    Its gradient is the sum of :math:`M / (n L_i) \nabla L_i`, M the geometric mean: factors inverse to the
    losses, whose common scale vanishes if any loss does. A loss of exactly 0 is taken as 1e-12.

    Source: Chennupati, Sistu, Yogamani, Rawashdeh, CVPR workshops 2019, arXiv 1904.08492.
    Deviation: the task loss is outside the product. A static weight multiplies its path's factor.
    """

    Options = GeometricOptions
    static_weights: ClassVar = "preference"

    def factors(self, seen: Tensor) -> Tensor:
        self.refuse_negative(seen)
        held = seen.clamp(min=TINY)
        mean = torch.exp(torch.log(held).mean())
        return mean / (len(self.names) * held)

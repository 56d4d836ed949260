"""Static weights."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class FixedOptions(AggregatorOptions):
    """Options of static weights."""


@AGGREGATORS.register("fixed", source="linear scalarisation; Kurin et al., NeurIPS 2022, arXiv 2201.04122")
class Fixed(Aggregator):
    r"""Static weights: :math:`L_{task} + k \sum_i w_i L_i`, w the static weight of each path."""

    Options: ClassVar[type[AggregatorOptions]] = FixedOptions

    def combine(self, task_loss: Tensor, raw: Tensor) -> Update:
        return self.weighted_sum(task_loss, raw, self.strength)

"""Random weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class RandomOptions(AggregatorOptions):
    """Options of random weights."""


@AGGREGATORS.register("random", source="Lin et al. (RLW), TMLR 2022, arXiv 2111.10603")
class Random(Aggregator):
    r"""Random loss weighting (RLW): factors softmax(N(0, I)), drawn in each step; they sum to 1.

    A control: a method that is no better has learnt nothing about the paths.

    Source: Lin, Ye, Zhang, Tsang, TMLR 2022, arXiv 2111.10603. Deviation: the task loss is not scaled.
    """

    Options = RandomOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"stochastic"})

    def factors(self, seen: Tensor) -> Tensor:
        return torch.randn(len(self.names), generator=self.generator).softmax(0).to(seen)

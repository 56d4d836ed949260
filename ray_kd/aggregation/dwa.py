"""Dynamic weight average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class DwaOptions(AggregatorOptions):
    """Options of the dynamic weight average."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T; larger: closer to equal weights."""


@AGGREGATORS.register("dwa", source="Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704")
class Dwa(Aggregator):
    r"""Dynamic weight average: factors :math:`n \, softmax_i(r_i / T)`, :math:`r_i = L_i(t-1) / L_i(t-2)`.

    L(t) is the mean of a loss over epoch t: a loss that falls slowly is weighted up. The scale of the
    losses is ignored. The first two epochs have equal weights.

    Source: Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704. Deviation: the task loss is not scaled.
    Needs ``begin_epoch`` with the last epoch's means; calling it again with the same ones changes nothing.
    """

    Options = DwaOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful"})
    means: Tensor

    def setup(self) -> None:
        self.register_buffer("means", torch.full((2, len(self.names)), torch.nan, dtype=torch.float64))
        self.register_buffer("current", torch.ones(len(self.names)))

    def compare_epochs(self, means: Mapping[str, float]) -> None:
        newest = self.means.new_tensor([means[name] for name in self.names])
        if torch.equal(newest, self.means[1]):
            return
        self.means = torch.stack([self.means[1], newest])
        if not self.means[0].isnan().any():
            older, newer = self.means
            ratio = torch.where(older == 0, 1.0, newer / older)
            self.current = (len(self.names) * (ratio / self.options.temperature).softmax(0)).to(self.static)

    def factors(self, seen: Tensor) -> Tensor:
        return self.current.to(seen.dtype)

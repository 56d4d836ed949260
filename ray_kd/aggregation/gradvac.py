"""Gradient vaccine."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import GameOptions
from ray_kd.aggregation.torchjd_base import TorchjdAggregator
from ray_kd.aggregation.torchjd_weightings import weights_of
from ray_kd.config.registry import AGGREGATORS


class GradVacOptions(GameOptions):
    """Options of gradient vaccine."""

    beta: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Weight of the newest cosine in the running mean."""


@AGGREGATORS.register("gradvac", source="Wang et al., ICLR 2021, arXiv 2010.05874")
class GradVac(TorchjdAggregator):
    r"""Gradient vaccine: adds other gradients to each, so that each pair's cosine reaches its running mean.

    PCGrad with a moving target for the cosine of each pair, in place of 0. Pairs in random order; then
    the sum.

    Source: Wang, Tsvetkov, Firat, Cao, ICLR 2021, arXiv 2010.05874; weights by torchjd. Cosines over all
    chosen parameters at once (the publication also has them by layer).
    """

    Options = GradVacOptions
    traits = frozenset({"stochastic", "stateful"})
    weighs_zero_gradients: ClassVar[bool] = True
    weighting_name = "GradVacWeighting"

    def setup(self) -> None:
        super().setup()
        size = len(self.names) + (self.options.task == "inside")
        # torchjd creates its running cosines in the first call; here they must exist before a state loads.
        weights_of(self._weighting, np.zeros((size, size)), torch.Generator())

    def weighting_options(self) -> dict[str, Any]:
        return {"beta": self.options.beta}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # The running cosines stay in double precision on the CPU, where torchjd computes.
        kept, self._weighting = self._weighting, None
        try:
            return super()._apply(fn, recurse)
        finally:
            self._weighting = kept

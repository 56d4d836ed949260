"""Unconflicting projections of the gradients."""

from __future__ import annotations

import numpy as np

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import dual_cone
from ray_kd.config.registry import AGGREGATORS


class UpGradOptions(GameOptions):
    """Options of UPGrad."""


@AGGREGATORS.register("upgrad", source="Quinton, Rey, 2024, arXiv 2406.16232")
class UpGrad(GradientAggregator):
    r"""UPGrad: each gradient projected on the cone of directions that no loss conflicts with; then the sum.

    No loss rises, to first order, and a loss's influence stays proportional to its gradient.

    Source: Quinton, Rey, 2024, arXiv 2406.16232. Deviations: the sum of the projections, where the
    publication has their mean; non-negative least squares, where torchjd's form needs quadprog, and
    without its ridge.
    """

    Options = UpGradOptions

    def weigh(self, game: Game) -> Array:
        return np.sum([dual_cone(game.gramian, row) for row in np.eye(len(game.losses))], axis=0)

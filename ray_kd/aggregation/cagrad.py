"""Conflict-averse gradient descent."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import conflict_averse
from ray_kd.config.registry import AGGREGATORS


class CagradOptions(GameOptions):
    """Options of CAGrad."""

    c: Annotated[float, Field(ge=0)] = 0.5
    """Radius of the ball around the mean gradient, in units of its norm; 0: the plain sum."""


@AGGREGATORS.register("cagrad", source="Liu et al., NeurIPS 2021, arXiv 2110.14048")
class Cagrad(GradientAggregator):
    r"""CAGrad: the direction near the mean gradient g_0 that decreases the worst loss most.

    :math:`g_0 + c \|g_0\| g_w / \|g_w\|`, where w on the simplex minimises
    :math:`g_w^T g_0 + c \|g_0\| \|g_w\|`. Times m, as in the
    published code: c = 0 is the plain sum.

    Source: Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, arXiv 2110.14048. torchjd's form needs cvxpy; the inner
    problem is solved with SciPy here, as in the published code. Where g_w vanishes (the gradients balance)
    it is g_0.
    """

    Options = CagradOptions

    def weigh(self, game: Game) -> Array:
        m, c = len(game.losses), self.options.c
        weights = np.full(m, 1 / m)
        if c > 0:
            w = conflict_averse(game.gramian, c)
            mean = np.sqrt(max(float(game.gramian.mean()), 0.0))
            length = np.sqrt(max(float(w @ game.gramian @ w), 0.0))
            if length > 1e-6 * np.sqrt(np.trace(game.gramian)):
                weights = weights + c * mean / length * w
        return m * weights

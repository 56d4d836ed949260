"""Multiple-gradient descent."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import min_norm
from ray_kd.config.registry import AGGREGATORS


class MgdaOptions(GameOptions):
    """Options of multiple-gradient descent."""

    normalise: Literal["none", "l2", "loss", "loss+"] = "none"
    """The divisor of each gradient before the weights are computed: none, its norm, its loss, or both."""


@AGGREGATORS.register("mgda", source="Sener, Koltun, NeurIPS 2018, arXiv 1810.04650")
class Mgda(GradientAggregator):
    r"""MGDA: the shortest convex combination of the gradients: min :math:`a^T G a`, a on the simplex.

    To first order, no loss increases. Without normalisation the smallest gradient takes most of the weight,
    and the update vanishes wherever the gradients balance. As in the published code, the
    normalisers are used to find the weights, which are then applied to the losses without normalisers.

    Source: Sener, Koltun, NeurIPS 2018, arXiv 1810.04650; Désidéri, 2012. Deviation: solved exactly
    (non-negative least squares) instead of 250 steps of Frank-Wolfe.
    """

    Options = MgdaOptions

    def weigh(self, game: Game) -> Array:
        kind = self.options.normalise
        divisors = np.ones(len(game.losses))
        if kind in ("l2", "loss+"):
            divisors = divisors * game.norms
        if kind in ("loss", "loss+"):
            divisors = divisors * np.maximum(np.abs(game.losses), 1e-12)
        return min_norm(game.gramian / divisors / divisors[:, None])

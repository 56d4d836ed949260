"""Alpha-fair gradients."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import bargain, length
from ray_kd.config.registry import AGGREGATORS


class FairGradOptions(GameOptions):
    """Options of FairGrad."""

    alpha: Annotated[float, Field(gt=0)] = 2.0
    """Kind of fairness: 1 is proportional (Nash), larger tends to max-min."""
    normalise: bool = True
    """Bring the combined gradient to the norm 1 (at k = 1), to which the published code clips it. False: the
    solution as it stands, which grows as the gradients vanish: its norm goes with theirs to the power
    -1/3 at alpha 2."""


@AGGREGATORS.register("fairgrad", version=2, source="Ban, Ji, ICML 2024, arXiv 2402.15638")
class FairGrad(GradientAggregator):
    r"""FairGrad: :math:`G a = a^{-1/\alpha}` with a > 0: alpha-fair rates of progress.

    The size of all gradients together changes the length of the solution and not its direction.

    Source: Ban, Ji, ICML 2024, arXiv 2402.15638. Its code takes the solution times the number of losses and
    clips it to the norm 1. Deviations: with ``normalise`` the norm is 1 where gradients are so large that
    that code would not clip, too; the norm scales the weights, so the gradients of adapters too; Newton's
    method on the convex potential, where that code uses non-linear least squares.
    """

    Options = FairGradOptions

    def weigh(self, game: Game) -> Array:
        power = 1 / self.options.alpha
        if not self.options.normalise:
            return bargain(game.gramian, power)
        size = float(np.linalg.norm(game.gramian))
        weights = bargain(game.gramian / size, power) / np.sqrt(size)
        # Not below 1 but where gradients cancel, and then there is nothing to lengthen.
        return weights / max(length(weights, game.gramian), 1.0)

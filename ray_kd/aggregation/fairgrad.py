"""Alpha-fair gradients."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from ray_kd.aggregation.game import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import bargain
from ray_kd.config.registry import AGGREGATORS


class FairGradOptions(GameOptions):
    """Options of FairGrad."""

    alpha: Annotated[float, Field(gt=0)] = 2.0
    """Kind of fairness: 1 is proportional (Nash), larger tends to max-min."""
    normalise: bool = True
    """Divide G by its Frobenius norm first, as ``nash`` does. Not so in the publication, where the
    update grows as the gradients vanish: its norm goes with theirs to the power -1/3 at alpha 2."""


@AGGREGATORS.register("fairgrad", source="Ban, Ji, ICML 2024, arXiv 2402.15638")
class FairGrad(GradientAggregator):
    r"""FairGrad: :math:`G a = a^{-1/\alpha}` with a > 0: alpha-fair rates of progress.

    Source: Ban, Ji, ICML 2024, arXiv 2402.15638. Deviations: ``normalise`` (see there); Newton's method on
    the convex potential, where the published code uses non-linear least squares.
    """

    Options = FairGradOptions

    def weigh(self, game: Game) -> Array:
        scale = float(np.linalg.norm(game.gramian)) if self.options.normalise else 1.0
        return bargain(game.gramian / scale, power=1 / self.options.alpha)

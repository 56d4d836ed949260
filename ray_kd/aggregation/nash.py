"""Nash bargaining."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.aggregation.game import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import bargain
from ray_kd.config.registry import AGGREGATORS


class NashOptions(GameOptions):
    """Options of Nash bargaining."""

    max_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the combined gradient at k = 1; 0: no limit."""


@AGGREGATORS.register("nash", source="Navon et al. (Nash-MTL), ICML 2022, arXiv 2202.01017")
class Nash(GradientAggregator):
    r"""Nash-MTL: the bargaining solution, :math:`G a = 1/a` with a > 0: proportionally fair progress.

    As in the published code, G is divided by its Frobenius norm first, so the norm of the combination is
    :math:`\sqrt{m \|G\|_F}` up to the limit: weights may be far from 1, which changes the
    effective learning rate. The solution undoes the scale of every loss.

    Source: Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, ICML 2022, arXiv 2202.01017.
    Deviation: the equation is solved by Newton's method on its convex potential, where the published code
    (and torchjd, with cvxpy and ECOS) approximates it by a sequence of convex programs.
    """

    Options = NashOptions
    static_weights: ClassVar = "preference"

    def weigh(self, game: Game) -> Array:
        scale = float(np.linalg.norm(game.gramian))
        weights = bargain(game.gramian / scale, power=1.0)
        norm = np.sqrt(max(float(weights @ game.gramian @ weights), 0.0))
        limit = self.options.max_norm
        return weights * (limit / norm) if 0 < limit < norm else weights

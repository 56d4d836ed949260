"""Nash bargaining."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.aggregation.solvers import bargain, length
from ray_kd.config.registry import AGGREGATORS


class NashOptions(GameOptions):
    """Options of Nash bargaining."""

    max_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the combined gradient at k = 1; 0: no limit."""


@AGGREGATORS.register("nash", version=2, source="Navon et al. (Nash-MTL), ICML 2022, arXiv 2202.01017")
class Nash(GradientAggregator):
    r"""Nash-MTL: the bargaining solution, :math:`G a = 1/a` with a > 0: proportionally fair progress.

    The norm of the combination of m losses is :math:`\sqrt m`, whatever the size of the gradients, so with
    the limit of 1 it is 1 in every step: weights may be far from 1, and only the learning rate determines
    the length of a step. The solution undoes the scale of every loss.

    Source: Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, ICML 2022, arXiv 2202.01017. Its
    code divides G by its Frobenius norm and undoes that in the constraint ``log(a norm)``, so it solves the
    same equation. Deviations: Newton's method on the convex potential, where that code (and torchjd, with
    cvxpy and ECOS) approximates the solution by a sequence of convex programs; the limit scales the weights,
    so the gradients of adapters too, where that code clips only the shared gradient.
    """

    Options = NashOptions
    static_weights: ClassVar = "preference"

    def weigh(self, game: Game) -> Array:
        weights = bargain(game.gramian, power=1.0)
        norm, limit = length(weights, game.gramian), self.options.max_norm
        return weights * (limit / norm) if 0 < limit < norm else weights

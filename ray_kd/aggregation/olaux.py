"""Online learning of auxiliary weights."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GradientAggregator, GradientOptions
from ray_kd.config.registry import AGGREGATORS


class OlauxOptions(GradientOptions):
    """Options of OL-AUX."""

    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of the weights, on the mean cosine of a round."""
    horizon: Annotated[int, Field(ge=1)] = 5
    """Steps of a round; the weights move at its end."""
    initial: Annotated[float, Field(ge=0)] = 1.0
    """Weights to start from."""


@AGGREGATORS.register("olaux", source="Lin et al. (OL-AUX), NeurIPS 2019")
class Olaux(GradientAggregator):
    r"""OL-AUX: moves weights along the products of each path's gradient with the task's.

    A path that on average lowers the task loss to first order, :math:`g_i^T g_{task} > 0`, gains weight; one
    that raises it loses weight, down to 0. The weights move after every ``horizon`` steps.

    Source: Lin, Baweja, Kantor, Held, NeurIPS 2019. Deviations: the mean of cosines in place of the sum
    of products, so that one learning rate serves every scale; weights stay >= 0.
    """

    Options = OlauxOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful"})

    def weigh(self, game: Game) -> Array:
        n, memory = len(self.names), self.memory
        v = memory.setdefault("v", np.full(n, self.options.initial))
        round_ = memory.setdefault("round", np.zeros(n + 1))
        factors = v[game.paths]
        if game.task_norm > 0:
            round_[game.paths] += game.task_products / (game.norms * game.task_norm)
        round_[-1] += 1
        if round_[-1] >= self.options.horizon:
            memory["v"] = np.maximum(v + self.options.lr * round_[:-1] / round_[-1], 0.0)
            memory["round"] = np.zeros(n + 1)
        return factors

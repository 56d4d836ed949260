"""Gradient similarity to the task."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ray_kd.aggregation.gramian_weighting import Array, Game, GradientAggregator, GradientOptions
from ray_kd.config.registry import AGGREGATORS


class GcsOptions(GradientOptions):
    """Options of gradient similarity."""

    form: Literal["weighted", "sign"] = "weighted"
    """Factor max(0, cosine), or 1 if the cosine is positive and else 0."""
    normalise: bool = False
    """First scale each path's gradient to the norm of the task's (not in the publication)."""


@AGGREGATORS.register("gcs", source="Du et al., 2018, arXiv 1812.02224")
class Gcs(GradientAggregator):
    r"""Gradient cosine similarity: weight a path by its agreement with the task.

    :math:`g_{task} + k \sum_i f_i w_i g_i`, with :math:`f_i = \max(0, \cos(g_i, g_{task}))`, or 1 where that
    cosine is positive. The cosines of single batches are noisy.

    Source: Du, Czarnecki, Jayakumar, Farajtabar, Pascanu, Lakshminarayanan, 2018, arXiv 1812.02224.
    """

    Options = GcsOptions
    static_weights: ClassVar = "preference"

    def weigh(self, game: Game) -> Array:
        if game.task_norm == 0:
            return np.ones(len(game.losses))
        cosines = game.task_products / (game.norms * game.task_norm)
        weighted = self.options.form == "weighted"
        factors: Array = np.maximum(cosines, 0.0) if weighted else (cosines > 0).astype(np.float64)
        return factors * game.task_norm / game.norms if self.options.normalise else factors

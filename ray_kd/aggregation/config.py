"""Conflict-free gradients."""

from __future__ import annotations

import numpy as np

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.config.registry import AGGREGATORS


class ConfigOptions(GameOptions):
    """Options of ConFIG."""


@AGGREGATORS.register("config", source="Liu et al. (ConFIG), ICLR 2025, arXiv 2408.11104")
class ConFig(GradientAggregator):
    r"""ConFIG: the direction with equal, positive cosine to every gradient.

    :math:`v = U^+ 1`, U the gradients at length 1; the update is :math:`(\sum_i g_i^T \hat v) \hat v`.
    Computed from the Gramian: with C the cosines and :math:`c = C^+ 1`,
    :math:`v = \sum_i c_i g_i / \|g_i\|`. Weights may be negative.

    Source: Liu, Chu, Thuerey, ICLR 2025, arXiv 2408.11104. torchjd needs the Jacobian for it and
    returns no weights, which k and the records need.
    """

    Options = ConfigOptions
    traits = frozenset({"signed"})

    def weigh(self, game: Game) -> Array:
        norms = game.norms
        cosines = game.gramian / norms / norms[:, None]
        c = np.linalg.pinv(cosines, rcond=1e-10, hermitian=True).sum(1)
        squared = float(c @ cosines @ c)
        if squared <= 1e-20:
            return np.zeros(len(c))
        # sum_i g_i . v = norms . (C c); both factors of 1 / |v| together.
        return float(norms @ cosines @ c) / squared * c / norms

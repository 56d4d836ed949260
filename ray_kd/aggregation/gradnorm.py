"""GradNorm."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.config.registry import AGGREGATORS


class GradNormOptions(GameOptions):
    """Options of GradNorm."""

    parameters: str = "last_shared"
    alpha: Annotated[float, Field(ge=0)] = 1.5
    """Strength of the pull towards one training rate."""
    lr: Annotated[float, Field(gt=0)] = 0.025
    """Learning rate of the weights."""
    initial_steps: Annotated[int, Field(ge=1)] = 1
    """Steps over which the initial loss L(0) is averaged; 1 as published, which is noisy."""


@AGGREGATORS.register("gradnorm", source="Chen et al., ICML 2018, arXiv 1711.02257")
class GradNorm(GradientAggregator):
    r"""GradNorm: weights v that bring :math:`v_i \|g_i\|` to :math:`\bar n \, r_i^\alpha`.

    :math:`\bar n` is the mean of all :math:`v_i \|g_i\|`, r_i the ratio L_i / L_i(0) over its mean: losses
    that decrease slowly get more weight. The weights take a step of Adam on
    :math:`\sum_i |v_i \|g_i\| - \bar n r_i^\alpha|` (the target constant) and are rescaled to a sum of m;
    they stay above 1e-3. Gradients are those of the last shared layer.

    Source: Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018, arXiv 1711.02257. The step uses the weights
    that it found at the step before, as published.
    """

    Options = GradNormOptions
    cost: ClassVar[str] = "1, and K + 1 to a layer"
    footprint: ClassVar[str] = "none"
    traits = frozenset({"stateful"})
    weighs_zero_gradients: ClassVar[bool] = True

    def weigh(self, game: Game) -> Array:
        options, m = self.options, len(game.losses)
        memory = self.memory
        v = memory.setdefault("v", np.ones(m)).copy()
        count = float(memory.setdefault("count", np.zeros(1))[0])
        initial = memory.setdefault("initial", np.zeros(m))
        if count < options.initial_steps:
            initial = memory["initial"] = (initial * count + game.losses) / (count + 1)
        pulls = v * game.norms
        rates = game.losses / np.where(initial == 0, 1.0, initial)
        rates = np.abs(rates) / max(float(np.abs(rates).mean()), 1e-12)
        gradient = np.sign(pulls - pulls.mean() * rates**options.alpha) * game.norms
        first = memory.setdefault("first", np.zeros(m)) * 0.9 + 0.1 * gradient
        second = memory.setdefault("second", np.zeros(m)) * 0.999 + 0.001 * gradient**2
        memory["count"], memory["first"], memory["second"] = np.array([count + 1]), first, second
        step = (first / (1 - 0.9 ** (count + 1))) / (np.sqrt(second / (1 - 0.999 ** (count + 1))) + 1e-8)
        moved = np.maximum(v - options.lr * step, 1e-3)
        memory["v"] = moved * m / moved.sum()
        return v

"""Gradients brought to one norm."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from ray_kd.aggregation.gramian_weighting import Array, Game, GradientAggregator, GradientOptions
from ray_kd.config.registry import AGGREGATORS


class EqualNormOptions(GradientOptions):
    """Options of equal norms."""

    reference: Literal["average", "task", "mean"] = "average"
    """The norm that every path's gradient gets: the task gradient's average over all steps so far that
    measured it (see ``every``), the task gradient's of this step, or the mean over the paths of this step."""


@AGGREGATORS.register("equal_norm", source="common practice; GradNorm with alpha = 0, arXiv 1711.02257")
class EqualNorm(GradientAggregator):
    r"""Equal norms: :math:`g_{task} + k \sum_i w_i \, n \, g_i / \|g_i\|`, n the norm of a reference.

    Every path pulls equally hard, whatever the scale of its loss. With the task gradient of the same
    step as the reference, distillation starves as the student fits its labels; with the average over
    all steps so far, it does not. With ``every: n`` that average is over the steps that measure.
    """

    Options = EqualNormOptions
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful", "scale_free"})

    def weigh(self, game: Game) -> Array:
        reference = self.options.reference
        if reference == "mean":
            norm = float(game.norms.mean())
        elif reference == "task":
            norm = game.task_norm
        else:
            kept = self.memory.get("average", np.zeros(2))
            self.memory["average"] = kept = kept + np.array([1.0, game.task_norm])
            norm = float(kept[1] / kept[0])
        return norm / game.norms

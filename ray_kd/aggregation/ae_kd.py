"""Adaptive ensemble distillation in gradient space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.gramian_weighting import Array, Game, GradientAggregator
from ray_kd.aggregation.solvers import min_norm
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class AeKdOptions(AggregatorOptions):
    """Options of AE-KD."""

    cap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Largest weight C; at least 1/n."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between two measurements; the weights are kept in between."""


@AGGREGATORS.register("ae_kd", source="Du et al., NeurIPS 2020 (Agree to Disagree)")
class AeKd(GradientAggregator):
    r"""AE-KD: the shortest combination of the paths' gradients at the logits, weights at most C.

    :math:`\min \|\sum_i a_i \nabla_z w_i L_i\|^2`, sum(a) = 1, :math:`0 \le a_i \le C`; the gradient at
    the logits is averaged over the batch first, as in the published code. Made for several teachers'
    logits: every path must be computed from the student's logits. The task loss is not weighted. It costs
    one backward, and one for each path down to the logits.

    Source: Du, You, Li, Wu, Wang, Qian, Zhang, NeurIPS 2020. Deviation: least squares where the published
    code trains a one-class SVM.
    """

    Options = AeKdOptions
    cost: ClassVar[str] = "1, and K to the logits"
    footprint: ClassVar[str] = "none"
    tensor: ClassVar[str | None] = "logits"

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given = self.needed(gradients)
        everything = [task_loss, *self.summed(losses)]
        if self.due():
            rows = given.at("logits", everything[1:], self.names)
            gramian = np.zeros((len(everything), len(everything)))
            gramian[1:, 1:] = (rows @ rows.T).double().cpu().numpy()
            self.remember(alphas := self.play(gramian, everything))
        else:
            alphas = self.memory["alphas"]
        return self.one_backward(everything, alphas, given)

    def weigh(self, game: Game) -> Array:
        return min_norm(game.gramian, self.options.cap)

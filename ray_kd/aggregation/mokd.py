"""Task and distillation as two objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.gradients import Gradients, weighted
from ray_kd.aggregation.gramian_weighting import GradientAggregator, GradientOptions
from ray_kd.aggregation.update import Update
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-8


class MokdOptions(GradientOptions):
    """Options of MoKD."""

    clip: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Both weights stay within [clip, 1 - clip], so that neither becomes 0."""


@AGGREGATORS.register("mokd", source="Hayder et al. (DTO-KD), ICLR 2026, OpenReview QMItTyQW92")
class Mokd(GradientAggregator):
    r"""DTO-KD (MoKD): shortest combination of the gradients of :math:`\ln L_{task}` and
    :math:`\ln \sum_i w_i L_i`.

    :math:`\gamma = (u_d - u_t)^T u_d / \|u_t - u_d\|^2`, clipped, u the gradients of the logarithms; the
    update is :math:`\gamma u_t + k (1 - \gamma) u_d`. There are only two objectives: the paths are
    combined as by ``fixed``. It takes two backwards for any number of paths; norms and cosines of single
    paths are not measured.

    Source: Hayder, Cheraghian, Petersson, Harandi, Hartley (DTO-KD), ICLR 2026, OpenReview QMItTyQW92. The
    name is that of its preprint, MoKD, which its authors withdrew. No code was published; the clip's value
    is ours, and its learned projection of features is left to paths.
    """

    Options = MokdOptions
    cost: ClassVar[str] = "2"
    footprint: ClassVar[str] = "2"

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given, which = self.needed(gradients), self.options.parameters
        everything = [task_loss, *self.summed(losses)]
        if not self.due():
            return self.one_backward(everything, self.memory["alphas"], given)
        pair = [task_loss, weighted(everything[1:], self._scale[1:].tolist())]
        if bool(pair[1] < 0):
            self.refuse_negative(self.grouped(losses).detach() * self.static)
        given.choose(which, [task_loss, *losses.values()])
        jacobian = given.jacobian(pair, which, keep=which != "all")
        both = self._balance(jacobian.gramian(), np.array([float(loss.detach()) for loss in pair]))
        alphas = self.remember(np.array([both[0], *[both[1]] * len(self.names)]))
        if which != "all":
            return self.one_backward(everything, alphas, given)
        listed = [float(both[0]), float(both[1]) * self.options.k]
        vector = jacobian.rows[0] * listed[0] + jacobian.rows[1] * listed[1]
        factors = self.effective(alphas).tolist()
        return self.written(factors, lambda: given.write(vector, jacobian, listed), vector.device)

    def _balance(self, gramian: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Factors (2,) on task and distillation loss."""
        if not np.isfinite(gramian).all():
            return np.full(2, np.nan)
        inverse = 1 / (np.abs(losses) + TINY)
        (tt, td), (_, dd) = gramian * inverse * inverse[:, None]
        apart = tt + dd - 2 * td
        gamma = (dd - td) / apart if apart > 0 else 0.5
        gamma = float(np.clip(gamma, self.options.clip, 1 - self.options.clip))
        if tt == 0 or dd == 0:
            return np.array([float(tt > 0), float(dd > 0)]) * inverse
        return np.array([gamma, 1 - gamma]) * inverse

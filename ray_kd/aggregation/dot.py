"""Distillation-oriented training: separate momenta."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.gradients import Gradients, weighted
from ray_kd.aggregation.gramian_weighting import GradientAggregator
from ray_kd.aggregation.momenta import SeparateMomenta
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class DotOptions(AggregatorOptions):
    """Options of DOT."""

    delta: Annotated[float, Field(ge=0, lt=0.5)] = 0.075
    """Difference of the two momenta from the optimizer's."""


@AGGREGATORS.register("dot", source="Zhao, Cui, Song, ICCV 2023, arXiv 2307.08436")
class Dot(GradientAggregator):
    r"""DOT: separate momenta, :math:`\mu - \Delta` for the task and :math:`\mu + \Delta` for distillation.

    The update is that of ``fixed``, :math:`g_{task} + k \sum_i w_i g_i`; the optimizer keeps the two parts
    apart, so that distillation, with the larger momentum, leads. It is a form of SGD: hand
    ``optimizer_rule()`` to the loop in place of ``torch.optim.SGD``.

    Source: Zhao, Cui, Song, ICCV 2023, arXiv 2307.08436 and its code: weight decay belongs to the task's
    part, and what the task alone reaches keeps the momentum :math:`\mu`. Deviation: so does what
    distillation alone reaches (adapters). Norms and cosines of single paths are not measured.
    """

    Options = DotOptions
    cost: ClassVar[str] = "2"
    footprint: ClassVar[str] = "2, and a second momentum"

    def setup(self) -> None:
        super().setup()
        self.parts: dict[Tensor, tuple[Tensor, Tensor]] = {}
        """Distillation's part of ``.grad``, and the norm of all of it, where a parameter has two parts."""

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given = self.needed(gradients)
        pair = [task_loss, weighted(self.summed(losses), self._scale[1:].tolist())]
        jacobian = given.jacobian(pair)
        k = self.options.k
        distillation = jacobian.rows[1] * k
        vector = jacobian.rows[0] + distillation

        def backward() -> None:
            given.write(vector, jacobian, [1.0, k])
            ours, whole = (given.split(part, jacobian.reached) for part in (distillation, vector))
            self.parts.clear()
            for parameter, part in ours.items():
                self.parts[parameter] = (part, torch.linalg.vector_norm(whole[parameter]))

        factors = [1.0, *(self._scale[1:] * k).tolist()]
        return self.written(factors, backward, vector.device)

    def optimizer_rule(self) -> Any:
        if not self.losses:
            return None  # plain training is plain SGD, bit for bit
        return partial(SeparateMomenta, delta=self.options.delta, parts=self.parts)

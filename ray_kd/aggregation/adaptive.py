"""Adaptive Distillation: the weight of each path is learned beside the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_kd.aggregation.base import Aggregator
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class AdaptiveOptions(AggregatorOptions):
    """Options of Adaptive Distillation."""

    verbatim: bool = False
    """As published: the alphas join the student's optimizer group, unclamped and unsmoothed."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of the alphas in their own group."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of each loss that drives the alphas; 0: the batch's own loss."""
    limit: Annotated[float, Field(gt=0)] = 7.0
    """Alphas stay within +-limit; 7 allows factors from 1/1100 to 1100."""


@AGGREGATORS.register("adaptive", source="Chennupati et al., BMVC 2021, arXiv 2110.09674")
class Adaptive(Aggregator):
    r"""Adaptive Distillation (AD): one learned log-weight :math:`a_i` for each path (or layer).

    :math:`L = L_{task} + k ( \sum_i e^{-a_i} w_i L_i + \sum_i a_i )`, a initialised to 0; the task
    loss is never scaled. At its fixed point :math:`a_i = \ln(w_i L_i)`: the effective factor is
    :math:`1 / L_i`, whatever the static weight, so no path is ever switched off and a small loss is
    amplified.

    Source: Chennupati, Kamani, Cheng, Chen, BMVC 2021, arXiv 2110.09674 and its published code.
    ``verbatim: true`` is that code: the alphas are in the student's optimizer group (its learning
    rate, momentum and weight decay). Deviations of the default: a group of their own (plain SGD, no
    weight decay, no momentum, lr 0.1), a running mean of each loss drives them (bias-corrected,
    decay 0.9), and they stay within +-7.
    """

    Options = AdaptiveOptions
    traits: ClassVar[frozenset[str]] = frozenset({"stateful", "scale_free"})
    running: Tensor
    count: Tensor

    def __init__(
        self,
        options: AggregatorOptions,
        names: Sequence[str],
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(options, names, weights, seed)
        self.alpha = nn.Parameter(torch.zeros(len(self.names)))
        self.register_buffer("running", torch.zeros(len(self.names)))
        self.register_buffer("count", torch.zeros(()))

    def combine(self, task_loss: Tensor, raw: Tensor, gradients: Any) -> Update:
        scaled = raw if self._uniform else raw * self.static
        k = self.options.k
        if self.options.verbatim:
            factors = torch.exp(-self.alpha)
            total = task_loss + k * ((factors * scaled).sum() + self.alpha.sum())
            return Update(self.names, factors.detach() * self.static * k, total=total)
        limit = self.options.limit
        alpha = self.alpha.clamp(-limit, limit)
        factors = torch.exp(-alpha.detach())
        with torch.no_grad():
            self.count += 1
            self.running.lerp_(scaled.detach(), 1 - self.options.smoothing)
            mean = self.running / (1 - self.options.smoothing**self.count)
        # The gradient of e^{-a} m + a with the running mean m in place of the batch's loss.
        own = (torch.exp(-self.alpha) * mean + self.alpha).sum()
        total = task_loss + k * ((factors * scaled).sum() + own - own.detach())
        return Update(self.names, factors * self.static * k, total=total)

    @torch.no_grad()
    def _clamp(self) -> None:
        self.alpha.clamp_(-self.options.limit, self.options.limit)

    def after_step(self, evaluate: Any) -> None:
        if not self.options.verbatim:
            self._clamp()

    def param_groups(self) -> list[dict[str, Any]]:
        if self.options.verbatim:
            return [{"params": [self.alpha], "optimizer": "main"}]
        return [{"params": [self.alpha], "lr": self.options.lr, "momentum": 0.0, "weight_decay": 0.0}]

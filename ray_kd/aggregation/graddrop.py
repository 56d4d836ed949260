"""Gradient sign dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.gradients import Gradients
from ray_kd.aggregation.gramian_weighting import GradientAggregator, describe
from ray_kd.aggregation.update import Update
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS


class GradDropOptions(AggregatorOptions):
    """Options of gradient sign dropout."""

    leak: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of every gradient that is always kept."""
    task: Literal["inside", "outside"] = "inside"
    """Whether the task loss's gradient takes part and is dropped too, or is added unchanged."""


@AGGREGATORS.register("graddrop", source="Chen et al., NeurIPS 2020, arXiv 2010.06808")
class GradDrop(GradientAggregator):
    r"""GradDrop: for each parameter keep the gradients of one sign, drawn by the purity of their signs.

    :math:`P = \frac12 (1 + \sum_i g_i / \sum_i |g_i|)` for each parameter; with probability P its positive
    entries are kept, else its negative ones; then the sum. The factor in the records is the share of
    the path's squared gradient that was kept.

    Source: Chen, Ngiam, Huang, Luong, Kretzschmar, Chai, Anguelov, NeurIPS 2020, arXiv 2010.06808, over
    parameters, as in torchjd (which returns only the sum, while k needs its parts).
    """

    Options = GradDropOptions
    traits = frozenset({"stochastic", "direction"})
    cost: ClassVar[str] = "K + 1"

    def decide(self, task_loss: Tensor, losses: Mapping[str, Tensor], gradients: Gradients | None) -> Update:
        given = self.needed(gradients)
        jacobian = given.jacobian([task_loss, *self.summed(losses)])
        gramian = jacobian.gramian()
        inside = jacobian.rows[int(self.options.task == "outside") :]
        scale = torch.tensor(self._scale, dtype=inside.dtype, device=inside.device)[-len(inside) :, None]
        voting = inside * scale
        purity = 0.5 * (1 + voting.sum(0) / voting.abs().sum(0).clamp(min=1e-38))
        drawn = torch.Generator(inside.device).manual_seed(
            int(torch.randint(2**62, (), generator=self.generator))
        )
        positive = purity > torch.rand(
            purity.shape, generator=drawn, device=inside.device, dtype=inside.dtype
        )
        kept = torch.where(positive, inside > 0, inside < 0).to(inside.dtype)
        if self.options.leak:
            kept = self.options.leak + (1 - self.options.leak) * kept
        before = inside.square().sum(1)
        share = torch.ones(len(jacobian.rows), dtype=inside.dtype, device=inside.device)
        share[-len(inside) :] = (inside.square() * kept).sum(1) / torch.where(before == 0, 1.0, before)
        inside.mul_(kept)
        factors = self._scale.copy()
        factors[1:] *= self.options.k
        update = self.combined(jacobian, jacobian.rows, factors, given)
        update.factors = update.factors * share[1:].to(update.factors.dtype)
        return describe(update, gramian)

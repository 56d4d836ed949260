"""Fast adaptive multitask optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-8


class FamoOptions(AggregatorOptions):
    """Options of FAMO."""

    lr: Annotated[float, Field(gt=0)] = 0.025
    """Learning rate of Adam on the logits."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Weight decay of Adam on the logits (the publication's; its code has 1e-5)."""
    floor: float = 0.0
    """A lower bound b of every loss."""


@AGGREGATORS.register("famo", source="Liu et al., NeurIPS 2023, arXiv 2306.03792")
class Famo(Aggregator):
    r"""FAMO: :math:`c \sum_i z_i \ln(L_i - b)`, z = softmax(logits), :math:`1/c = \sum_i z_i / (L_i - b)`.

    As a weighted sum with the same gradient: factors :math:`c z_i / (L_i - b)`, which sum to 1. After each
    step the losses of the same batch are evaluated again, and Adam moves the logits so that the logarithms
    of all losses fall at one rate: gradient :math:`J_{softmax}^T (\ln L_{before} - \ln L_{after})`.

    Source: Liu, Feng, Stone, Liu, NeurIPS 2023, arXiv 2306.03792. Deviation: the task loss is not weighted.
    Noise of batch statistics and of random masks is part of the difference.
    """

    Options = FamoOptions
    cost: ClassVar[str] = "1, and a forward"
    static_weights: ClassVar = "preference"
    traits = frozenset({"stateful"})
    looks_again: ClassVar[bool] = True
    logits: Tensor
    moments: Tensor
    before: Tensor

    def setup(self) -> None:
        self.register_buffer("logits", torch.zeros(len(self.names)))
        self.register_buffer("moments", torch.zeros(2, len(self.names)))
        self.register_buffer("before", torch.zeros(len(self.names)))

    def factors(self, seen: Tensor) -> Tensor:
        gap = self._gap(seen)
        self.before = torch.log(gap)
        shares = self.logits.softmax(0).to(gap.dtype) / gap
        return shares / shares.sum()

    def _gap(self, losses: Tensor) -> Tensor:
        gap = losses - self.options.floor
        self.refuse_negative(gap)
        return gap + TINY

    @torch.no_grad()
    def look_again(self, after: Tensor) -> None:
        change = self.before - torch.log(self._gap(after))
        z = self.logits.softmax(0)
        gradient = z * (change - (z * change).sum()) + self.options.weight_decay * self.logits
        first, second = self.moments.unbind()
        first.lerp_(gradient.to(first), 0.1)
        second.lerp_((gradient * gradient).to(second), 0.001)
        step = (first / (1 - 0.9**self.steps)) / ((second / (1 - 0.999**self.steps)).sqrt() + 1e-8)
        self.logits -= self.options.lr * step

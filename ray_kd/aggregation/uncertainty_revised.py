"""Homoscedastic uncertainty with a regulariser that stays positive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.aggregation.learned import Learned, LearnedOptions
from ray_kd.config.registry import AGGREGATORS


class UncertaintyRevisedOptions(LearnedOptions):
    """Options of revised uncertainty weighting."""


@AGGREGATORS.register("uncertainty_revised", source="Liebel, Körner, 2018, arXiv 1805.06334")
class UncertaintyRevised(Learned):
    r"""Revised uncertainty weighting: :math:`\sum_i w_i L_i / (2 u_i) + \ln(1 + u_i)`, u = σ², from u = 1.

    The objective stays >= 0. For a small loss the factor tends to :math:`1 / \sqrt{2 L_i}`: it grows
    more slowly than that of ``uncertainty`` or ``adaptive``.

    Source: Liebel, Körner, 2018, arXiv 1805.06334. Deviations: ln u is learned, where the publication
    learns its root; the task loss is not scaled; those of ``Learned``.
    """

    Options = UncertaintyRevisedOptions
    traits = frozenset({"stateful"})

    def factor(self, alpha: Tensor) -> Tensor:
        return 0.5 * torch.exp(-alpha)

    def slope(self, alpha: Tensor, weighted: Tensor) -> Tensor:
        return torch.sigmoid(alpha) - weighted

    def regulariser(self, alpha: Tensor) -> Tensor:
        return F.softplus(alpha)

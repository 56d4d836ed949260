"""Homoscedastic uncertainty."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.aggregation.learned import Learned, LearnedOptions
from ray_kd.config.registry import AGGREGATORS


class UncertaintyOptions(LearnedOptions):
    """Options of uncertainty weighting."""


@AGGREGATORS.register("uncertainty", source="Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115")
class Uncertainty(Learned):
    r"""Uncertainty weighting: :math:`\sum_i \frac12 e^{-s_i} w_i L_i + \frac12 s_i`, s initialised to 0.

    s is a log-variance; at its fixed point the factor is :math:`1 / (2 L_i)`, half of ``adaptive``'s.
    The objective becomes negative, and the factor of a vanishing loss grows up to the limit.

    Source: Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115. Deviations: the task loss is not scaled;
    those of ``Learned``.
    """

    Options = UncertaintyOptions

    def factor(self, alpha: Tensor) -> Tensor:
        return 0.5 * torch.exp(-alpha)

    def slope(self, alpha: Tensor, weighted: Tensor) -> Tensor:
        return 0.5 - weighted

    def regulariser(self, alpha: Tensor) -> Tensor:
        return 0.5 * alpha

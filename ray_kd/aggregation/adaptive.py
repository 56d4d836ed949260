"""Adaptive Distillation: the weight of each path is learned beside the student."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.aggregation.learned import Learned, LearnedOptions
from ray_kd.config.registry import AGGREGATORS


class AdaptiveOptions(LearnedOptions):
    """Options of Adaptive Distillation."""


@AGGREGATORS.register("adaptive", source="Chennupati et al., BMVC 2021, arXiv 2110.09674")
class Adaptive(Learned):
    r"""Adaptive Distillation (AD): one learned log-weight :math:`a_i` for each path (or layer).

    :math:`L = L_{task} + k ( \sum_i e^{-a_i} w_i L_i + \sum_i a_i )`, a initialised to 0; the task
    loss is never scaled. At its fixed point :math:`a_i = \ln(w_i L_i)`: the effective factor is
    :math:`1 / L_i`, whatever the static weight, so no path is ever switched off and a small loss is
    amplified. For a loss that is 0 or negative the factor grows to the limit (verbatim: without bound).

    Source: Chennupati, Kamani, Cheng, Chen, BMVC 2021, arXiv 2110.09674 and its published code.
    ``verbatim: true`` is that code; for how the default deviates see ``Learned``.
    """

    Options = AdaptiveOptions

    def factor(self, alpha: Tensor) -> Tensor:
        return torch.exp(-alpha)

    def slope(self, alpha: Tensor, weighted: Tensor) -> Tensor:
        return 1 - weighted

    def regulariser(self, alpha: Tensor) -> Tensor:
        return alpha

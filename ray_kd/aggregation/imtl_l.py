"""IMTL-L: impartial multitask learning by loss values."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_kd.aggregation.learned import Learned, LearnedOptions
from ray_kd.config.registry import AGGREGATORS


class ImtlLOptions(LearnedOptions):
    """Options of IMTL-L."""


@AGGREGATORS.register("imtl_l", source="Liu et al., ICLR 2021 (Towards Impartial Multi-task Learning)")
class ImtlL(Learned):
    r"""IMTL-L: :math:`\sum_i e^{s_i} w_i L_i - s_i`, s initialised to 0: ``adaptive`` with the sign flipped.

    Source: Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, ICLR 2021. Deviations: the task loss is not
    scaled; those of ``Learned``.
    """

    Options = ImtlLOptions

    def factor(self, alpha: Tensor) -> Tensor:
        return torch.exp(alpha)

    def slope(self, alpha: Tensor, weighted: Tensor) -> Tensor:
        return weighted - 1

    def regulariser(self, alpha: Tensor) -> Tensor:
        return -alpha

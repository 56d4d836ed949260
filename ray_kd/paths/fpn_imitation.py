"""Feature imitation: every level of the student's pyramid imitates the teacher's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.detectors import LevelOptions, LevelPath
from ray_kd.paths.feature import match_size


class FpnImitationOptions(LevelOptions):
    """Options of feature imitation."""


@PATHS.register(
    "fpn_imitation", source="Romero et al., ICLR 2015 (FitNets), on pyramids as in arXiv 2102.12252"
)
class FpnImitation(LevelPath):
    r"""Feature imitation on the whole pyramid: :math:`MSE(A(F_s), F_t)`, one loss for each level.

    Mean over samples, channels and all positions, objects or not. Target: the teacher's level.

    Source: FitNets' hint (Romero et al., arXiv 1412.6550) on every FPN level, as the code of LD
    (arXiv 2102.12252) takes it among its comparators, static weight 2. Deviation: A, a 1x1 convolution
    where widths differ; equal widths are compared directly, as in that code.
    """

    published_weight: ClassVar[float] = 2.0
    Options = FpnImitationOptions

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return F.mse_loss(match_size(feature, target.shape[-2:]), target)

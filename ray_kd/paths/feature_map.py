"""Feature maps: the student's mean activations imitate the teacher's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, pooled


class FeatureMapOptions(AdaptedOptions):
    """Options of feature maps."""


@PATHS.register("feature_map", source="Yang et al., ICLR 2021 (SRRL), as arXiv 2110.09674 uses it")
class FeatureMap(AdaptedPath):
    r"""Feature map (FM): :math:`\frac{1}{N C} \sum (GAP(A(F_s)) - GAP(F_t))^2`, for each stage.

    A is the stage's adapter, GAP the mean over positions. The target is the teacher's pooled vector,
    (N, C).

    Source: the feature-matching part of SRRL (Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021), on all
    stages and with static weight 1 as in the published Adaptive Distillation code. Deviation: none;
    SRRL's own paper takes only the last stage, with a ReLU (``stages: [3], adapter: conv_bn_relu``).
    """

    target_kind: ClassVar[str | None] = "pooled"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    degree: ClassVar[float | None] = 2
    Options = FeatureMapOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        return pooled(feature)

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return F.mse_loss(pooled(feature), target)

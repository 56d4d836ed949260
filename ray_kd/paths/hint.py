"""FitNets' hint: a regression from the student's middle layer to the teacher's."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, match_size


class HintOptions(AdaptedOptions):
    """Options of hints."""

    adapter: Literal["conv_bn", "conv_bn_relu"] | None = "conv_bn_relu"
    """The regressor, student channels -> teacher channels; None: widths are equal."""


@PATHS.register("hint", source="Romero et al., ICLR 2015 (FitNets), arXiv 1412.6550")
class Hint(AdaptedPath):
    r"""Hint (FitNets): :math:`MSE(A(F_s), F_t)`, mean over samples, channels and positions.

    A is a regressor. By default on the second stage; the target is the teacher's feature map.

    Source: Romero et al., ICLR 2015, arXiv 1412.6550, in the form of the RepDistiller code (static
    weight 100, second stage, convolution + BatchNorm + ReLU). Deviations: trained together with the
    task and not in a stage before it, as in that code; a student map of another size is pooled to the
    teacher's, where that code uses a strided or transposed convolution.
    """

    target_kind: ClassVar[str | None] = "feature"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 100.0
    default_stages: ClassVar[tuple[int, ...] | None] = (1,)
    degree: ClassVar[float | None] = 2
    Options = HintOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return F.mse_loss(match_size(feature, target.shape[-2:]), target)

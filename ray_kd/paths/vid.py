"""Variational information distillation: the student predicts the teacher's features and their variance."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.random_streams import forked


class VidOptions(PathOptions):
    """Options of VID."""

    initial_variance: Annotated[float, Field(gt=0.01)] = 5.0
    """The initial variance."""


@PATHS.register("vid", source="Ahn et al., CVPR 2019, arXiv 1904.05835")
class Vid(FeaturePath):
    r"""Variational information distillation (VID), for each stage.

    :math:`\frac12 \left[ (\mu(F_s) - F_t)^2 / \sigma_c^2 + \log \sigma_c^2 \right]`, mean over samples,
    channels and positions: the negative log-likelihood of the teacher's map under a normal law whose
    mean is three 1x1 convolutions of the student's and whose variance :math:`\sigma_c^2` =
    softplus(.) + 1e-5 is learnt for each channel. It may be negative. Target: the teacher's map.

    Source: Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019, arXiv 1904.05835, in the form of the authors'
    code that RepDistiller takes: hidden width that of the teacher, variance from 5, static weight 1.
    Deviation: a student map of another size is pooled after the convolutions, in that code before them.
    """

    target_kind: ClassVar[str | None] = "feature"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    traits = frozenset({"signed"})
    zero_at_teacher: ClassVar[bool] = False
    Options = VidOptions

    def setup(self) -> None:
        super().setup()
        self.means, self.scales = nn.ModuleDict(), nn.ParameterDict()
        start = math.log(math.expm1(self.options.initial_variance - 1e-5))
        for stage in self.stages:
            into, out = self.student_channels[stage], self.teacher_channels[stage]
            with forked(self.seed, "adapter", self.label, stage):
                self.means[str(stage)] = nn.Sequential(
                    nn.Conv2d(into, out, 1, bias=False),
                    nn.ReLU(),
                    nn.Conv2d(out, out, 1, bias=False),
                    nn.ReLU(),
                    nn.Conv2d(out, out, 1, bias=False),
                )
            self.scales[str(stage)] = nn.Parameter(torch.full((out,), start))

    def adapt(self, feature: Tensor, stage: int) -> Tensor:
        return cast(Tensor, self.means[str(stage)](feature))

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        variance = (F.softplus(self.scales[str(stage)]) + 1e-5).view(1, -1, 1, 1)
        error = (match_size(feature, target.shape[-2:]) - target).square()
        return (error / variance + variance.log()).mean() / 2

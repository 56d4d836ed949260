"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import FeaturePath, match_size


class AttentionTransferOptions(PathOptions):
    """Options of attention transfer."""

    power: Annotated[float, Field(gt=0)] = 2.0
    """p in Q = sum over channels of |F|^p."""


@PATHS.register("attention_transfer", source="Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928")
class AttentionTransfer(FeaturePath):
    r"""Attention transfer (AT): MSE between normalised attention maps, one loss for each stage.

    :math:`Q = \sum_c |F_c|^p`, :math:`\hat Q = Q / (\|Q\|_2 + 10^{-6})` over H x W. The target is the
    teacher's :math:`\hat Q`, (N, H, W). Raw student features, no adapter.

    Source: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928, as the published Adaptive Distillation
    code writes it (p = 2, static weight 1000). Deviation: where the two maps differ in size,
    the student's is always resized to the teacher's before Q (averaged if it is larger, its cells repeated
    if it is smaller), since the target must not depend on the student. Other code (RepDistiller, the
    authors') averages the larger of the two: another value where the student's map is smaller.
    """

    target_options: ClassVar[tuple[str, ...] | None] = ("power",)
    published_weight: ClassVar[float] = 1000.0
    degree: ClassVar[float | None] = 0
    Options = AttentionTransferOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        power = self.options.power
        energy = (feature.square() if power == 2 else feature.abs().pow(power)).sum(dim=1)
        return energy / (torch.linalg.vector_norm(energy, dim=(1, 2), keepdim=True) + 1e-6)

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return F.mse_loss(self.stage_target(match_size(feature, target.shape[-2:])), target)

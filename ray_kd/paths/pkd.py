"""Pearson distillation: correlation of the student's features with the teacher's, whatever their scale."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.config.registry import PATHS
from ray_kd.paths.detectors import LevelOptions, LevelPath
from ray_kd.paths.feature import match_size
from ray_kd.paths.gather import all_rows

TINY = 1e-6


class PkdOptions(LevelOptions):
    """Options of PKD."""


@PATHS.register("pkd", source="Cao et al., NeurIPS 2022, arXiv 2207.02039")
class Pkd(LevelPath):
    r"""Distillation by the Pearson correlation (PKD): :math:`\frac12 MSE(\hat F_s, \hat F_t)`, one loss for
    each level; in each channel :math:`\hat F = (F - mean) / (std + 10^{-6})` over samples and positions.

    That is one minus the correlation of student and teacher in a channel, mean over channels. Mean and
    standard deviation are those of the batch over all ranks. Target: the teacher's level.

    Source: Cao, Zhang, Cheng, Wen, Zhao, Lin, Ouyang, NeurIPS 2022, and its code: static weight 10 for
    one-stage detectors, 6 for two-stage ones. Deviations: a student level of another size is pooled to the
    teacher's, in that code resized bilinearly; a 1x1 convolution where widths differ, which it lacks.
    """

    published_weight: ClassVar[float] = 10.0
    traits = frozenset({"relational"})
    Options = PkdOptions

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        feature = match_size(feature, target.shape[-2:])
        student, spread = standardised(feature)
        teacher, _ = standardised(target)
        # Means and deviations of all ranks are constants in ``student``. The loss does not depend
        # on the mean, so only the gradient of the deviation is missing; it is added below.
        own, wanted, apart = (
            all_rows(values.sum(dim=(2, 3))).sum(dim=0)
            for values in (student.square(), teacher.square(), (student - teacher).square())
        )
        count = all_rows(feature.new_ones(len(feature), 1)).sum() * feature[0, 0].numel()
        deviation = (own / (count - 1).clamp_min(1)).clamp_min(1e-24).sqrt() * (spread + TINY)
        factor = (spread + TINY) / (deviation + TINY)  # 1, but with the gradient of the deviation
        total = factor * apart + (factor - 1) * (factor * own - wanted)
        return (total / (2 * count)).mean()


@torch.no_grad()
def moments(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (1, C, 1, 1) over samples of all ranks and positions."""
    count = all_rows(feature.new_ones(len(feature), 1)).sum() * feature[0, 0].numel()
    mean = all_rows(feature.sum(dim=(2, 3))).sum(dim=0) / count
    mean = mean.view(1, -1, 1, 1)
    squares = all_rows((feature - mean).square().sum(dim=(2, 3))).sum(dim=0)
    return mean, (squares / (count - 1).clamp_min(1)).sqrt().view(1, -1, 1, 1)


def standardised(feature: Tensor) -> tuple[Tensor, Tensor]:
    """A map (N, C, H, W) with mean 0 and deviation 1 in each channel, and the deviations (C,)."""
    mean, spread = moments(feature)
    return (feature - mean) / (spread + TINY), spread.flatten()

"""Neuron selectivity transfer as in its paper: a maximum mean discrepancy."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.paths.nst import unfold, upper


class NstMmdOptions(PathOptions):
    """Options of NST by maximum mean discrepancy."""


@PATHS.register("nst_mmd", source="Huang & Wang, 2017, arXiv 1707.01219")
class NstMmd(FeaturePath):
    r"""NST: maximum mean discrepancy of neurons' activation patterns, kernel :math:`(x^T y)^2`.

    With each channel's pattern L2-normalised over H x W: the mean of k over pairs of teacher channels,
    plus that over student channels, minus twice that over mixed pairs, mean over samples. Since
    :math:`\sum_{ij} (x_i^T y_j)^2 = \langle X^T X, Y^T Y \rangle`, that is
    :math:`\| F_s^T F_s / C_s - F_t^T F_t / C_t \|^2`, HW x HW matrices: exactly 0 at best, no adapter,
    any widths. If HW is large, the three sums over channels are computed instead. The target is the
    smaller of the normalised features (C HW numbers) and half of the HW x HW matrix.

    Source: Huang, Wang, arXiv 1707.01219, in the form of the RepDistiller code (polynomial kernel of degree
    2 without constant, static weight 50, all stages). Deviation: where the two maps differ in size, the
    student's is always resized to the teacher's of the same aspect ratio (averaged if it is larger, its cells
    repeated if it is smaller), since the target must not depend on the student; that code averages the larger
    of the two: another value where the student's map is smaller.
    """

    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 50.0
    degree: ClassVar[float | None] = 0
    Options = NstMmdOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        patterns = F.normalize(feature.flatten(2), dim=2)
        channels, positions = patterns.shape[1:]
        if 2 * channels <= positions + 1:
            return patterns.view_as(feature)
        return _mean_outer(patterns).flatten(1).index_select(1, upper(positions, feature.device))

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        if target.dim() == 2:
            positions = (math.isqrt(8 * target.shape[1] + 1) - 1) // 2
            matched = match_size(feature, same_shape(feature, positions))
            student = F.normalize(matched.flatten(2), dim=2)
            theirs = target.index_select(1, unfold(positions, target.device))
            return (_mean_outer(student).flatten(1) - theirs).square().sum() / len(student)
        student = F.normalize(match_size(feature, target.shape[-2:]).flatten(2), dim=2)
        teacher = target.flatten(2)
        if student.shape[2] <= student.shape[1] + teacher.shape[1]:
            return (_mean_outer(student) - _mean_outer(teacher)).square().sum() / len(student)
        own, theirs, cross = (
            (one @ other.mT).square().mean()
            for one, other in ((student, student), (teacher, teacher), (student, teacher))
        )
        # Rounding may leave a negative zero where student and teacher agree.
        return (own + theirs - 2 * cross).clamp_min(0)


def same_shape(feature: Tensor, positions: int) -> tuple[int, int]:
    """Height and width of a map with so many positions and the aspect ratio of ``feature``."""
    height, width = feature.shape[-2:]
    height = round(height * math.sqrt(positions / (height * width)))
    return height, positions // height


def _mean_outer(patterns: Tensor) -> Tensor:
    """(N, C, P) -> the mean over channels of the outer products, (N, P, P)."""
    return (patterns.mT @ patterns) / patterns.shape[1]

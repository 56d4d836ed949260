"""Neuron selectivity transfer, in the Gramian form."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, match_size


class NstOptions(AdaptedOptions):
    """Options of NST."""


@PATHS.register("nst", source="Huang & Wang, 2017, arXiv 1707.01219 (Gramian form of arXiv 2110.09674)")
class Nst(AdaptedPath):
    r"""Neuron selectivity transfer (NST): MSE between the C x C Gramians of normalised features.

    Features as (C, HW), each channel L2-normalised over HW; :math:`\frac{1}{N C^2} \sum
    (F_s F_s^T - F_t F_t^T)^2`, on adapted student features. The target is the smaller of the teacher's
    normalised features (C * HW numbers) and half of its symmetric Gramian (C (C + 1) / 2), never the
    Gramian where C > HW. Where C > 2 HW no C x C matrix is ever built: with S, D the sum and the
    difference of the features, :math:`F_s F_s^T - F_t F_t^T = (D S^T + S D^T) / 2` and
    :math:`\|D S^T + S D^T\|^2 = 2 \langle S^T S, D^T D \rangle + 2 \langle S^T D, D^T S \rangle`,
    which loses no digits where student and teacher are close.

    Source: Huang, Wang, arXiv 1707.01219, in the form of the published Adaptive Distillation code
    (static weight 10), which is the polynomial-kernel Gramian without the MMD. Deviation: where
    the two maps differ in size, the student's is always resized to the teacher's (averaged if it is larger,
    its cells repeated if it is smaller), since the target must not depend on the student (a target that is
    half a Gramian has no size, and nothing is resized). Other code averages the larger of the
    two: another value where the student's map is smaller.
    """

    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 10.0
    degree: ClassVar[float | None] = 0
    Options = NstOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        normalised = F.normalize(feature.flatten(2), dim=2)
        channels, positions = normalised.shape[1:]
        if channels > positions or 2 * positions <= channels + 1:
            return normalised.view_as(feature)
        gramian = normalised @ normalised.mT
        return gramian.flatten(1).index_select(1, upper(channels, feature.device))

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        if target.dim() == 2:
            student = F.normalize(feature.flatten(2), dim=2)
            gramian = target.index_select(1, unfold(student.shape[1], target.device))
            return F.mse_loss((student @ student.mT).flatten(1), gramian)
        student = F.normalize(match_size(feature, target.shape[-2:]).flatten(2), dim=2)
        teacher = target.flatten(2)
        channels, positions = student.shape[1:]
        if channels <= 2 * positions:
            return F.mse_loss(student @ student.mT, teacher @ teacher.mT)
        return _by_positions(student, teacher)


def _by_positions(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss through one product of (2 HW) x (2 HW) instead of C x C ones."""
    count, channels, positions = student.shape
    both = torch.cat([(student + teacher).mT, (student - teacher).mT], dim=1)
    products = both @ both.mT
    own, cross = products[:, :positions], products[:, positions:]
    squares = (
        own[:, :, :positions] * cross[:, :, positions:] + own[:, :, positions:] * cross[:, :, :positions]
    )
    return squares.sum() / (2 * count * channels**2)


@lru_cache(maxsize=64)
def upper(size: int, device: torch.device) -> Tensor:
    """Positions of the upper triangle, diagonal included, in a flattened (size, size) matrix."""
    rows, columns = torch.triu_indices(size, size, device=device)
    return rows * size + columns


@lru_cache(maxsize=64)
def unfold(size: int, device: torch.device) -> Tensor:
    """For each entry of a flattened symmetric (size, size) matrix its place in the upper triangle."""
    place = torch.empty(size * size, dtype=torch.long, device=device)
    half = upper(size, device)
    place[half] = torch.arange(len(half), device=device)
    rows, columns = torch.triu_indices(size, size, device=device)
    place[columns * size + rows] = place[half].clone()
    return place

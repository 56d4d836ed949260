"""Pair-wise similarity: compares the similarities of pixels within each image."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import FeaturePath, match_size
from ray_kd.paths.nst import unfold, upper
from ray_kd.paths.nst_mmd import same_shape


class PairwiseOptions(PathOptions):
    """Options of pair-wise similarity."""

    pool: Annotated[int, Field(ge=1)] = 2
    """Maps are max-pooled over windows of pool x pool first; 1: no pooling."""


@PATHS.register("pairwise", source="Liu et al., CVPR 2019 (SKD), arXiv 1903.04197")
class Pairwise(FeaturePath):
    r"""Pair-wise distillation of SKD: :math:`\frac{1}{N P^2} \sum_{nij} (a^s_{nij} - a^t_{nij})^2`.

    :math:`a_{nij} = \cos(f_{ni}, f_{nj})` of the P positions of image n's feature map after max-pooling, by
    default on the last stage. No adapter, any widths. The target is the smaller of the teacher's
    normalised pooled map (C P numbers) and half of its symmetric matrix (P (P + 1) / 2). Where P is more than
    both widths together, the sum is computed from C x C matrices in place of P x P ones.

    Source: Liu, Chen, Liu, Qin, Luo, Wang, CVPR 2019, arXiv 1903.04197, with the 2 x 2 max-pooling and the
    static weight 10 of CIRKD's code (Yang et al., CVPR 2022); the authors' own code pools to a grid of
    2 x 2 and lets no gradient through the norms. Deviation: a student map of another size is average-pooled
    to the teacher's after the max-pooling.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    published_weight: ClassVar[float] = 10.0
    degree: ClassVar[float | None] = 0
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = PairwiseOptions

    def stage_target(self, feature: Tensor) -> Tensor:
        maps = F.normalize(self._pooled(feature), dim=1)
        channels, positions = maps.shape[1], maps.shape[2] * maps.shape[3]
        if 2 * channels <= positions + 1:
            return maps
        cosine = similarity(maps.flatten(2))
        return cosine.flatten(1).index_select(1, upper(positions, feature.device))

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        maps = self._pooled(feature)
        if target.dim() == 2:
            positions = (math.isqrt(8 * target.shape[1] + 1) - 1) // 2
            student = F.normalize(match_size(maps, same_shape(maps, positions)), dim=1).flatten(2)
            wanted = target.index_select(1, unfold(positions, target.device))
            return F.mse_loss(similarity(student).flatten(1), wanted)
        student = F.normalize(match_size(maps, target.shape[-2:]), dim=1).flatten(2)
        return apart(student, target.flatten(2))

    def _pooled(self, feature: Tensor) -> Tensor:
        pool: int = self.options.pool
        return F.max_pool2d(feature, pool, ceil_mode=True) if pool > 1 else feature


def similarity(maps: Tensor) -> Tensor:
    """Inner products of all positions of maps (N, C, P), (N, P, P)."""
    return maps.mT @ maps


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarities of maps (N, C_s, P) and (N, C_t, P)."""
    positions = student.shape[2]
    if positions <= student.shape[1] + teacher.shape[1]:
        return F.mse_loss(similarity(student), similarity(teacher))
    # sum_ij (x_i . x_j)(y_i . y_j) = |X Y^T|^2, which needs no matrix of positions.
    own, theirs, cross = (
        (one @ other.mT).square().sum()
        for one, other in ((student, student), (teacher, teacher), (student, teacher))
    )
    # Rounding may leave a negative zero where student and teacher agree.
    return (own + theirs - 2 * cross).clamp_min(0) / (len(student) * positions**2)

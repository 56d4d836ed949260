"""Relational knowledge distillation: distances and angles between samples."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import RelationPath


class RkdOptions(PathOptions):
    """Options of RKD."""

    distance: Annotated[float, Field(ge=0)] = 25.0
    """Weight of the distances of pairs."""
    angle: Annotated[float, Field(ge=0)] = 50.0
    """Weight of the angles of triplets, whose cost grows with the cube of the batch size."""


@PATHS.register("rkd", source="Park et al., CVPR 2019, arXiv 1904.05068")
class Rkd(RelationPath):
    r"""Relational knowledge distillation (RKD) on pooled features e of the last stage.

    :math:`25 \, \ell_1(d_{ij}/\bar d) + 50 \, \ell_1(\cos \angle e_i e_j e_k)`, the smooth L1 loss of
    student against teacher, mean over all N^2 pairs and N^3 triplets; :math:`\bar d` is the mean
    distance of different samples, of the student and of the teacher each. Target: the teacher's e.

    Source: Park, Kim, Lu, Cho, CVPR 2019, arXiv 1904.05068; weights as there and in RepDistiller, total
    static weight 1. Deviation: two samples with the same embedding have distance 0, in that code 1e-6.
    """

    target_kind: ClassVar[str | None] = "pooled"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    degree: ClassVar[float | None] = 0
    Options = RkdOptions

    def relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted_distance, wanted_unit = _relations(teacher)
        distance, unit = _relations(student)
        loss = self.options.distance * F.smooth_l1_loss(distance, wanted_distance)
        if self.options.angle > 0:
            angles, wanted = unit @ unit.mT, wanted_unit @ wanted_unit.mT
            loss = loss + self.options.angle * F.smooth_l1_loss(angles, wanted)
        return loss


def _relations(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean (N, N), and unit vectors from every sample to every other (N, N, D)."""
    count = len(embedding)
    apart = embedding.unsqueeze(0) - embedding.unsqueeze(1)
    distance = torch.linalg.vector_norm(apart, dim=2)
    mean = distance.sum() / max(1, count * (count - 1))
    return distance / mean.clamp_min(1e-12), apart / distance.clamp_min(1e-12).unsqueeze(2)

"""Similarity preservation: compares the similarities of the batch's samples."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import RelationPath


class SimilarityOptions(PathOptions):
    """Options of similarity preservation."""


@PATHS.register("similarity", source="Tung & Mori, ICCV 2019, arXiv 1907.09682")
class Similarity(RelationPath):
    r"""Similarity-preserving distillation (SP) on the flattened feature map A of the last stage.

    :math:`\frac{1}{N^2} \| \hat G_s - \hat G_t \|^2` with :math:`G = A A^T`, each row L2-normalised.
    Target: the teacher's flattened map (N, C H W).

    Source: Tung, Mori, ICCV 2019, arXiv 1907.09682; static weight 3000 as in RepDistiller. Deviation:
    none.
    """

    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 3000.0
    degree: ClassVar[float | None] = 0
    Options = SimilarityOptions

    def embedding(self, feature: Tensor) -> Tensor:
        return feature.flatten(1)

    def relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(_similarity(student), _similarity(teacher))


def _similarity(embedding: Tensor) -> Tensor:
    return F.normalize(embedding @ embedding.T, dim=1)

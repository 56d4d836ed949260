"""Correlation congruence: compares kernel matrices of the batch."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.paths.feature import RelationPath


class CorrelationOptions(PathOptions):
    """Options of correlation congruence."""

    gamma: Annotated[float, Field(gt=0)] = 0.4
    """Width of the Gaussian kernel exp(-gamma |x - y|^2)."""
    order: Annotated[int, Field(ge=1, le=8)] = 2
    """Order P of its Taylor series."""


@PATHS.register("correlation", source="Peng et al., ICCV 2019, arXiv 1904.01802")
class Correlation(RelationPath):
    r"""Correlation congruence (CC) on the pooled features of the last stage, L2-normalised to x.

    :math:`\frac{1}{N^2} \| K_s - K_t \|^2`, :math:`K_{ij} = \sum_{p=0}^{P} e^{-2\gamma}
    \frac{(2\gamma)^p}{p!} (x_i^T x_j)^p`, the Taylor series of a Gaussian kernel. Target: the teacher's
    normalised x.

    Source: Peng et al., ICCV 2019, arXiv 1904.01802: gamma 0.4 and P = 2. Deviations: the instance
    term (soft targets) is a separate path; static weight 100, as in public code of this form.
    RepDistiller's CC is another loss (products of neighbouring samples' differences, weight 0.02),
    which depends on the order of the batch.
    """

    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 100.0
    degree: ClassVar[float | None] = 0
    Options = CorrelationOptions

    def embedding(self, feature: Tensor) -> Tensor:
        return F.normalize(super().embedding(feature), dim=1)

    def relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(self._kernel(student), self._kernel(teacher))

    def _kernel(self, embedding: Tensor) -> Tensor:
        double = 2 * self.options.gamma
        cosine = embedding @ embedding.T
        value = torch.zeros_like(cosine)
        for power in range(self.options.order, 0, -1):  # Horner's rule
            value = (value + double**power / math.factorial(power)) * cosine
        return math.exp(-double) * (value + 1)

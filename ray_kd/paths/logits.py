"""Logit matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.logit import LogitOptions, LogitPath


class LogitsOptions(LogitOptions):
    """Options of logit matching."""


@PATHS.register("logits", source="Ba & Caruana, NeurIPS 2014, arXiv 1312.6184")
class Logits(LogitPath):
    r"""Logit matching: :math:`MSE(z_s, z_t)`, mean over samples and classes.

    Source: Ba, Caruana, NeurIPS 2014, arXiv 1312.6184, with the static weight 0.1 of the published
    Adaptive Distillation code.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    published_weight: ClassVar[float] = 0.1
    degree: ClassVar[float | None] = 2
    Options = LogitsOptions

    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return F.mse_loss(student, teacher)

"""Soft targets: the student imitates the teacher's tempered class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.logit import LogitOptions, LogitPath


class SoftTargetOptions(LogitOptions):
    """Options of soft targets."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    """T: both distributions are softmax(z / T)."""


@PATHS.register("soft_target", source="Hinton et al., NeurIPS-W 2014, arXiv 1503.02531")
class SoftTarget(LogitPath):
    r"""Soft targets (ST, "KD"): :math:`T^2 \, KL(softmax(z_t/T) \| softmax(z_s/T))`, mean over samples.

    Source: Hinton, Vinyals, Dean, arXiv 1503.02531, in the form of the published Adaptive Distillation
    code (T = 4, static weight 0.1). The target is the untempered logits, which do not depend on T. With
    ``standardise: true, temperature: 2, weight: 9`` it is the KD of logit standardisation (Sun et al.,
    CVPR 2024, arXiv 2403.01427). Pixel by pixel, mean over labelled pixels, it is the KD of segmentation:
    ``temperature: 1, weight: 1`` in the code of CIRKD (Yang et al., CVPR 2022, arXiv 2204.06986), which
    counts ignored pixels too.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    published_weight: ClassVar[float] = 0.1
    Options = SoftTargetOptions

    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        temperature = self.options.temperature
        log_student = F.log_softmax(student / temperature, dim=1)
        log_teacher = F.log_softmax(teacher / temperature, dim=1)
        return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2

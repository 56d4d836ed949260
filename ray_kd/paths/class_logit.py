"""Class-logit distillation of dense detectors: a Bernoulli distribution for each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, full, logits_of
from ray_kd.paths.detectors import PredictionPath, binary_divergence, head_of, weighted_mean


class ClassLogitOptions(PathOptions):
    """Options of class-logit distillation."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T: probabilities are sigmoid(z / T)."""
    where: Literal["positives", "teacher"] = "positives"
    """Which positions count: those trained to find an object, equally; or all positions, weighted by the
    teacher's largest class probability."""


@PATHS.register("class_logit", source="Zheng et al., CVPR 2022 (LD), arXiv 2102.12252, for sigmoid logits")
class ClassLogit(PredictionPath):
    r"""Class-logit distillation: :math:`T^2 KL(\sigma(z_t/T) \| \sigma(z_s/T))` of each class's Bernoulli
    distribution, mean over classes, then over positives.

    Dense detectors predict each class with a sigmoid, so each class has its own distribution. The
    mean over classes is the published reduction: the sum would be K times as large (80 for COCO).
    ``where: teacher`` takes the mean over all positions, weighted by the teacher's largest class
    probability. Positives and weights are summed over all ranks; without any the loss is 0, with a graph.
    Target: the teacher's logits (N, L, K).

    Source: the classification half of LD's code (Zheng et al., CVPR 2022): T 2, static weight 10, on
    positives, mean over classes. Deviations: that code takes a softmax over the classes of a sigmoid head
    and a mean over each level's positives of one rank, summed over levels; here it is one mean over all.
    """

    published_weight: ClassVar[float] = 10.0
    needs: ClassVar[tuple[str, ...]] = ("boxes", "box_label")
    Options = ClassLogitOptions

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        logits = logits_of(student, self.label)
        temperature = self.options.temperature
        with exact(logits):
            logits = full(logits)
            teacher = self.like(target[self.label], logits)
            weight = self.weights(student, teacher, batch).to(logits.dtype)
            chosen = weight > 0
            divergence = binary_divergence(logits[chosen] / temperature, teacher[chosen] / temperature)
            value = divergence.mean(dim=-1) * temperature**2
            return {self.label: weighted_mean(value, weight[chosen])}

    @torch.no_grad()
    def weights(self, student: Outputs, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The weight of each position (N, L)."""
        for name in self.needs:
            self.in_batch(batch, name)
        if self.options.where == "teacher":
            return teacher.sigmoid().amax(dim=-1)
        positives: Tensor = head_of(student, self.label).positives(student, batch)
        return positives

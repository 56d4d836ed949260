"""Decoupled knowledge distillation: separate weights for the target class and the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.registry import PATHS
from ray_kd.paths.logit import LogitOptions, LogitPath


class DkdOptions(LogitOptions):
    """Options of DKD."""

    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the target class's part."""
    beta: Annotated[float, Field(ge=0)] = 8.0
    """Weight of the other classes' part; its source tunes it for each pair of networks."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs over which the loss rises linearly to its full size."""


@PATHS.register("dkd", source="Zhao et al., CVPR 2022, arXiv 2203.08679")
class Dkd(LogitPath):
    r"""Decoupled knowledge distillation (DKD): :math:`T^2 (\alpha \, TCKD + \beta \, NCKD)`.

    With tempered probabilities p, TCKD is the KL divergence of teacher and student between
    :math:`(p_y, 1 - p_y)`, y the label, and NCKD that between the other classes' probabilities, each
    over their sum; both are means over samples. Needs the label, for segmentation the mask. Target: the
    teacher's logits.

    Source: Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679: alpha 1, beta 8 (per pair), T 4,
    20 epochs of warm-up, static weight 1. Deviation: none; the other classes are selected instead of
    masked with -1000, which is equal up to rounding. Where views mix samples, y is the class of the
    largest share.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    published_weight: ClassVar[float] = 1.0
    needs: ClassVar[tuple[str, ...]] = ("label",)
    Options = DkdOptions

    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        label, temperature = self.in_batch(batch, "label"), self.options.temperature
        target, others = decouple(student / temperature, label)
        wanted_target, wanted_others = decouple(teacher / temperature, label)
        target_part = F.kl_div(target, wanted_target, reduction="batchmean", log_target=True)
        other_part = F.kl_div(others, wanted_others, reduction="batchmean", log_target=True)
        return (self.options.alpha * target_part + self.options.beta * other_part) * temperature**2


def decouple(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, not label), (N, 2), and among the other classes, (N, K - 1)."""
    label = label.unsqueeze(1)
    among = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, among + (among >= label))
    pair = torch.cat([logits.gather(1, label), others.logsumexp(dim=1, keepdim=True)], dim=1)
    return pair.log_softmax(dim=1), others.log_softmax(dim=1)

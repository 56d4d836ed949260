"""DeiT's distillation token: a second head that learns what the teacher says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import Path, exact, full, logits_of

HEAD = "distillation"
"""What the logits of the distillation token's head are called in ``Outputs.extra``."""


class DistillationTokenOptions(PathOptions):
    """Options of the distillation token."""

    labels: Literal["hard", "soft"] = "hard"
    """hard: the class that the teacher finds most likely; soft: its tempered probabilities."""
    temperature: Annotated[float, Field(gt=0)] = 3.0
    """T of soft labels."""


@PATHS.register("distillation_token", source="Touvron et al., ICML 2021 (DeiT), arXiv 2012.12877")
class DistillationToken(Path):
    r"""Distillation token (DeiT): :math:`CE(z_d, \operatorname{argmax} z_t)`, mean over samples.

    :math:`z_d` are the logits of the student's distillation token, ``extra["distillation"]``; the head of its
    class token, ``logits``, learns the labels by the task alone. With ``labels: soft`` the loss is
    :math:`T^2 KL(softmax(z_t/T) \| softmax(z_d/T))`. A student that has both heads gives them in training
    only, as distilled DeiT and LeViT of timm (``{name: timm, model: deit_tiny_distilled_patch16_224}``) do
    where a run has this path; in evaluation their logits are the mean of both heads.

    Source: Touvron, Cord, Douze, Massa, Sablayrolles, Jegou, ICML 2021, arXiv 2012.12877: hard labels weigh
    as much as the true ones (static weight 1; the task's loss and this one are halved there). Soft labels
    weigh 0.1 beside 0.9 of the task there, T 3. Deviations: without the smoothing of the teacher's label that
    the paper tries; soft labels are a mean over samples, where its code divides by the number of classes too.
    """

    target_kind: ClassVar[str | None] = "logits"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    reads: ClassVar[tuple[str, ...]] = (HEAD,)
    zero_at_teacher: ClassVar[bool] = False
    Options = DistillationTokenOptions

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if HEAD not in student.extra:
            raise UserError(
                f"path '{self.label}' needs extra['{HEAD}'], the logits of the student's distillation token, "
                "in training, and its outputs have none: expected a distilled network, such as {name: timm, "
                "model: deit_tiny_distilled_patch16_224}, or ray_kd.Outputs that hold it."
            )
        logits = student.extra[HEAD]
        with exact(logits):
            logits = full(logits)
            teacher = target[self.label].to(logits.dtype)
            if self.options.labels == "hard":
                return {self.label: F.cross_entropy(logits, teacher.argmax(dim=1))}
            temperature = self.options.temperature
            ours, theirs = (F.log_softmax(values / temperature, dim=1) for values in (logits, teacher))
            found = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
            return {self.label: found}

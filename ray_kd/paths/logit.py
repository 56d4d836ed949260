"""The base of paths between logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs
from ray_kd.paths.base import Path, exact, full, logits_of
from ray_kd.paths.gather import all_rows


class LogitOptions(PathOptions):
    """Options of paths between logits."""

    standardise: bool = False
    """Logit standardisation: each sample's logits, student's and teacher's, become (z - mean) / std."""


class LogitPath(Path):
    """A path whose target is the teacher's untempered logits (N, K).

    ``standardise`` is logit standardisation (Sun et al., CVPR 2024, arXiv 2403.01427):
    z <- (z - mean) / (std + 1e-7) for each sample, std over K - 1, before the loss. Its source
    publishes it with soft targets of temperature 2 and weight 9.
    """

    target_kind: ClassVar[str | None] = "logits"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    Options: ClassVar[type[PathOptions]] = LogitOptions

    def __init__(
        self,
        options: PathOptions,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__(options, student_channels, teacher_channels, seed)
        if options.stages is not None:
            raise UserError(
                f"path '{self.label}': stages: expected none, since it compares logits, got {options.stages}."
            )

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        logits = logits_of(student, self.label)
        with exact(logits):
            logits = full(logits)
            teacher = target[self.label].to(logits.dtype)
            if self.options.standardise:
                logits, teacher = standardised(logits), standardised(teacher)
            if "relational" in self.traits:
                logits, teacher = all_rows(logits), all_rows(teacher)
            return {self.label: self.loss(logits, teacher, batch)}

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (N, K) against logits (N, K); of all ranks' samples where relational."""


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) over the classes of each sample."""
    deviation = logits - logits.mean(dim=1, keepdim=True)
    return deviation / (logits.std(dim=1, keepdim=True) + 1e-7)

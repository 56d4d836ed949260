"""The base of paths between logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs
from ray_kd.paths.base import Path, exact, full, logits_of
from ray_kd.paths.dense import class_map, pixel_rows, resized
from ray_kd.paths.gather import all_rows, normaliser


class LogitOptions(PathOptions):
    """Options of paths between logits."""

    standardise: bool = False
    """Logit standardisation: replace each sample's logits of student and teacher by (z - mean) / std."""


class LogitPath(Path):
    """A path whose target is the teacher's untempered logits (N, K), or (N, K, H, W) of segmentation.

    Dense logits are compared at the teacher's resolution, before any upsampling (a student's of another
    size are resized, bilinear): every pixel is a row, with its class as label if the loss needs one. Pixels
    whose class in the batch's mask is IGNORE are left out; the mean is over the pixels of all ranks.

    ``standardise`` is logit standardisation (Sun et al., CVPR 2024, arXiv 2403.01427):
    z <- (z - mean) / (std + 1e-7) for each sample, std over K - 1, before the loss. Its source
    publishes it with soft targets of temperature 2 and weight 9.

    Example:
        >>> from ray_kd.plugin import LogitOptions, LogitPath, create_path, register_path
        >>> class ExampleOptions(LogitOptions):
        ...     pass
        >>> @register_path("example_logits")
        ... class Example(LogitPath):
        ...     Options = ExampleOptions
        ...     def loss(self, student, teacher, batch):
        ...         return (student - teacher).abs().mean()
        >>> create_path("example_logits", student_channels=(), teacher_channels=()).keys
        ('example_logits',)
    """

    target_kind: ClassVar[str | None] = "logits"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    Options: ClassVar[type[PathOptions]] = LogitOptions

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        logits = logits_of(student, self.label)
        with exact(logits):
            logits = full(logits)
            teacher = target[self.label].to(logits.dtype)
            if logits.dim() == 4:
                return {self.label: self.dense_loss(logits, teacher, batch)}
            if self.options.standardise:
                logits, teacher = standardised(logits), standardised(teacher)
            if "relational" in self.traits:
                logits, teacher = all_rows(logits), all_rows(teacher)
            return {self.label: self.loss(logits, teacher, batch)}

    def dense_loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (N, K, H, W) against (N, K, h, w), pixels as rows."""
        for key in self.needs_of("segmentation"):
            self.in_batch(batch, key)
        student = resized(student, teacher.shape[-2:])
        classes = class_map(batch["mask"], teacher.shape[-2:]) if "mask" in batch else None
        relational = "relational" in self.traits
        if relational:
            student, teacher = all_rows(student), all_rows(teacher)
            classes = None if classes is None else all_rows(classes)
        ours, theirs = pixel_rows(student, classes), pixel_rows(teacher, classes)
        rows = {} if classes is None else {"label": pixel_rows(classes.unsqueeze(1), classes).squeeze(1)}
        share = torch.ones((), device=ours.device)
        if not relational:
            share = len(ours) / normaliser(share * len(ours))
        if len(ours) == 0:
            return student.sum() * 0
        if self.options.standardise:
            ours, theirs = standardised(ours), standardised(theirs)
        return self.loss(ours, theirs, rows) * share

    @classmethod
    def needs_of(cls, task: str) -> tuple[str, ...]:
        if task != "segmentation":
            return cls.needs
        return tuple("mask" if key == "label" else key for key in cls.needs)

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (N, K) against logits (N, K), a mean over rows.

        Rows are samples (of all ranks if the path is relational), or pixels for segmentation: then ``batch``
        has only their classes as ``label`` (N,).
        """


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / (std + 1e-7) over the classes of each sample."""
    deviation = logits - logits.mean(dim=1, keepdim=True)
    return deviation / (logits.std(dim=1, keepdim=True) + 1e-7)

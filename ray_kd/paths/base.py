"""The base of all paths: how knowledge flows from a teacher to a student.

A path has two halves. ``target(teacher_outputs)`` keeps the smallest thing on the teacher's side that
fixes the loss: it needs no gradient, so it can be stored. ``path(student_outputs, target, batch)``
gives the loss, or one for each stage. What learns belongs to the path (adapters, a fusion): it trains
with the student and never leaves with it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs
from ray_kd.streams import forked

Trait = Literal["relational", "stateful", "stochastic", "signed"]


class Path(nn.Module):
    """One way for a teacher to teach a student.

    Args:
        options: the path's own ``Options``.
        student_channels: channels of the student's stages, shallow to deep.
        teacher_channels: channels of the teacher's stages, matched 1:1 with the student's.
        seed: key of the path's random stream (its adapters, its draws).
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    published_weight: ClassVar[float] = 1.0
    """The static weight that the path's source publishes."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of the batch that ``forward`` reads: label, sample, mask, boxes."""
    traits: ClassVar[frozenset[Trait]] = frozenset()
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    Options: ClassVar[type[PathOptions]] = PathOptions

    def __init__(
        self,
        options: PathOptions,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options: Any = options
        self.label = options.label or self.name
        self.seed = seed
        self.student_channels, self.teacher_channels = tuple(student_channels), tuple(teacher_channels)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the losses that ``forward`` returns, and of the tensors that ``target`` does."""
        return (self.label,)

    @abstractmethod
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        """What of the teacher's outputs fixes the loss; rows are samples, no gradient needed."""

    @abstractmethod
    def forward(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The loss of each of ``keys``: scalars, means over the batch."""

    def bind(self, teacher: nn.Module) -> None:  # noqa: B027 (most paths need nothing of the teacher)
        """Take frozen parts of the teacher that the loss needs (its head, say)."""

    def begin_epoch(self, epoch: int) -> None:  # noqa: B027 (a hook)
        """Called by the training loop before each epoch (0-based): for warm-ups."""


class LogitPath(Path):
    """A path whose target is the teacher's untempered logits (N, K)."""

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label)}

    def forward(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        return {self.label: self.loss(logits_of(student, self.label), target[self.label], batch or {})}

    @abstractmethod
    def loss(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (N, K) against logits (N, K)."""


class FeaturePath(Path):
    """A path with one loss for each stage it attaches to, student stage i against teacher stage i."""

    default_stages: ClassVar[tuple[int, ...] | None] = None
    """Stages its source attaches it to; None: all. Negative counts from the deepest."""

    def __init__(
        self,
        options: PathOptions,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__(options, student_channels, teacher_channels, seed)
        count = min(len(self.student_channels), len(self.teacher_channels))
        wanted = options.stages if options.stages is not None else self.default_stages
        if wanted is None:
            wanted = tuple(range(count))
        for stage in wanted:
            if not -count <= stage < count or (stage < 0 and options.stages is not None):
                raise UserError(
                    f"path '{self.label}': stage {stage} does not exist; "
                    f"student and teacher share stages 0 to {count - 1}."
                )
        self.stages = tuple(stage % count for stage in wanted)
        if len(set(self.stages)) != len(self.stages) or not self.stages:
            raise UserError(f"path '{self.label}': stages must be distinct and not empty, got {wanted}.")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.label}/stage{stage}" for stage in self.stages)

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {
            key: self.stage_target(feature_of(teacher, stage, self.label))
            for key, stage in zip(self.keys, self.stages, strict=True)
        }

    def forward(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        losses = {}
        for key, stage in zip(self.keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            losses[key] = self.stage_loss(feature, target[key], stage)
        return losses

    def adapt(self, feature: Tensor, stage: int) -> Tensor:
        """The student's feature in the teacher's terms; here: as it is."""
        return feature

    @abstractmethod
    def stage_target(self, feature: Tensor) -> Tensor:
        """What of a teacher's feature (N, C, H, W) fixes the loss."""

    @abstractmethod
    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        """Scalar loss of a student's (adapted) feature against the target of that stage."""


class AdaptedOptions(PathOptions):
    """Options of a path that brings student features to the teacher's width."""

    adapter: Literal["conv_bn", "conv_bn_relu"] | None = "conv_bn"
    """1x1 convolution + BatchNorm (+ ReLU), student channels -> teacher channels; None: widths are equal."""


class AdaptedPath(FeaturePath):
    """A feature path with an adapter for each stage: 1x1 convolution (Kaiming, no bias) + BatchNorm.

    That is the adapter of the published Adaptive Distillation code (Chennupati et al., BMVC 2021,
    arXiv 2110.09674); SRRL's own paper adds a ReLU (``adapter: conv_bn_relu``).
    """

    Options: ClassVar[type[PathOptions]] = AdaptedOptions

    def __init__(
        self,
        options: PathOptions,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__(options, student_channels, teacher_channels, seed)
        self.adapters = nn.ModuleDict()
        for stage in self.stages:
            into, out = self.student_channels[stage], self.teacher_channels[stage]
            if self.options.adapter is None:
                if into != out:
                    raise UserError(
                        f"path '{self.label}': adapter null needs equal channels, but stage {stage} has "
                        f"{into} in the student and {out} in the teacher; use adapter: conv_bn."
                    )
                continue
            with forked(seed, "adapter", self.label, stage):
                self.adapters[str(stage)] = adapter(into, out, relu=self.options.adapter == "conv_bn_relu")

    def adapt(self, feature: Tensor, stage: int) -> Tensor:
        return self.adapters[str(stage)](feature) if str(stage) in self.adapters else feature


def adapter(into: int, out: int, relu: bool = False) -> nn.Sequential:
    """1x1 convolution without bias (Kaiming, fan out) + BatchNorm (gamma 1), optionally + ReLU."""
    convolution = nn.Conv2d(into, out, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out), *([nn.ReLU()] if relu else []))


def logits_of(outputs: Outputs, label: str) -> Tensor:
    """The logits, or a UserError that says which path misses them."""
    if outputs.logits is None:
        raise UserError(f"path '{label}' needs logits, and the outputs hold none.")
    return outputs.logits


def feature_of(outputs: Outputs, stage: int, label: str) -> Tensor:
    """The feature map of a stage, or a UserError that says which path misses it."""
    if stage >= len(outputs.features):
        raise UserError(
            f"path '{label}' needs the feature map of stage {stage}, and the outputs hold "
            f"{len(outputs.features)} stages."
        )
    return outputs.features[stage]


def match_size(feature: Tensor, size: Sequence[int]) -> Tensor:
    """A feature map (N, C, H, W) pooled (or repeated) to ``size`` = (H', W'); as it is when equal."""
    return feature if feature.shape[-2:] == torch.Size(size) else F.adaptive_avg_pool2d(feature, tuple(size))

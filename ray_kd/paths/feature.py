"""The bases of paths between feature maps: stage by stage, pooled, adapted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs
from ray_kd.paths.base import Path, exact, feature_of, full
from ray_kd.paths.gather import all_rows
from ray_kd.random_streams import forked


class FeaturePath(Path):
    """A path with one loss for each stage it attaches to, student stage i against teacher stage i.

    Example:
        >>> from ray_kd.plugin import FeaturePath, PathOptions, create_path, register_path
        >>> class ExampleOptions(PathOptions):
        ...     pass
        >>> @register_path("example_stages")
        ... class Example(FeaturePath):
        ...     Options = ExampleOptions
        ...     def stage_target(self, feature):
        ...         return feature.mean((1, 2, 3))
        ...     def stage_loss(self, feature, target, stage):
        ...         return (feature.mean((1, 2, 3)) - target).pow(2).mean()
        >>> create_path("example_stages", student_channels=(4, 8), teacher_channels=(8, 16)).keys
        ('example_stages/stage0', 'example_stages/stage1')
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    default_stages: ClassVar[tuple[int, ...] | None] = None
    """Stages that its source uses; None: all. Negative numbers count from the deepest."""

    def setup(self) -> None:
        super().setup()
        options = self.options
        for side, channels in (("student", self.student_channels), ("teacher", self.teacher_channels)):
            if not channels:
                raise UserError(
                    f"path '{self.label}' compares feature maps, and the {side} has none: a network that "
                    "such paths attach to returns them in ray_kd.Outputs and says by 'stage_channels' how "
                    "many channels each has. Paths between logits (soft_target, logits, ...) need none."
                )
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
        self.stage_keys = tuple(f"{self.label}/stage{stage}" for stage in self.stages)
        self.adapters = nn.ModuleDict()

    def make_adapters(self, make: Callable[[int, int], nn.Module], where_equal: bool) -> None:
        """Create an adapter for each stage, each with its own random stream; none if ``adapter`` is null.

        Args:
            make: makes a module from the student's and the teacher's numbers of channels.
            where_equal: whether stages of equal widths get an adapter too.
        """
        kind = self.options.adapter
        for stage in self.stages:
            into, out = self.student_channels[stage], self.teacher_channels[stage]
            if kind is None and into != out:
                default = type(self.options).model_fields["adapter"].default
                raise UserError(
                    f"path '{self.label}': adapter null needs equal channels, but stage {stage} has "
                    f"{into} in the student and {out} in the teacher; use adapter: {default}."
                )
            if kind is not None and (where_equal or into != out):
                with forked(self.seed, "adapter", self.label, stage):
                    self.adapters[str(stage)] = make(into, out)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.stage_keys

    def forward(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        for stage in self.stages:
            feature_of(student, stage, self.label, self.student_channels[stage])
        return super().forward(student, target, batch)

    @torch.no_grad()
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        channels = self.teacher_channels
        return {
            key: self.stage_target(full(feature_of(teacher, stage, self.label, channels[stage]).detach()))
            for key, stage in zip(self.stage_keys, self.stages, strict=True)
        }

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            with exact(feature):
                feature = full(feature)
                losses[key] = self.stage_loss(feature, target[key].to(feature.dtype), stage)
        return losses

    def adapt(self, feature: Tensor, stage: int) -> Tensor:
        """The student's feature after the stage's adapter, if it has one."""
        return self.adapters[str(stage)](feature) if str(stage) in self.adapters else feature

    @abstractmethod
    def stage_target(self, feature: Tensor) -> Tensor:
        """The target of a stage from the teacher's feature (N, C, H, W)."""

    @abstractmethod
    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        """Scalar loss of a student's (adapted) feature against the target of that stage."""


class RelationPath(FeaturePath):
    """A path that compares relations between the samples of a batch, by default on the last stage.

    Its target is the teacher's embedding of each sample and not the batch's matrix, so that it can be stored
    for any batch. With several ranks the matrix is over the samples of all ranks: embeddings and targets are
    gathered, with gradients.
    """

    traits = frozenset({"relational"})
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)

    def stage_target(self, feature: Tensor) -> Tensor:
        return self.embedding(feature)

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return self.relation_loss(all_rows(self.embedding(feature)), all_rows(target))

    def embedding(self, feature: Tensor) -> Tensor:
        """A feature map (N, C, H, W) as the samples' embeddings (N, D); here: pooled, D = C."""
        return pooled(feature)

    @abstractmethod
    def relation_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Scalar loss of the embeddings (N, D_s) and (N, D_t) of the same samples."""


class AdaptedOptions(PathOptions):
    """Options of a path that adapts student features to the teacher's width."""

    adapter: Literal["conv_bn", "conv_bn_relu"] | None = "conv_bn"
    """1x1 convolution + BatchNorm (+ ReLU), student channels -> teacher channels; None: widths are equal."""


class AdaptedPath(FeaturePath):
    """A feature path with an adapter for each stage: 1x1 convolution (Kaiming, no bias) + BatchNorm.

    That is the adapter of the published Adaptive Distillation code (Chennupati et al., BMVC 2021,
    arXiv 2110.09674); SRRL's own paper adds a ReLU (``adapter: conv_bn_relu``). Deviation: there the
    paths of a run share one adapter for each stage, here each path has its own, so that adding a path
    changes nothing in another.
    """

    Options: ClassVar[type[PathOptions]] = AdaptedOptions

    def setup(self) -> None:
        super().setup()
        relu = self.options.adapter == "conv_bn_relu"
        self.make_adapters(lambda into, out: adapter(into, out, relu), where_equal=True)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, computed as one matrix product on a CPU: a third faster on small maps."""

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu":
            return super().forward(input)
        product = torch.einsum("oi,nip->nop", self.weight.flatten(1), input.flatten(2))
        return product.unflatten(2, input.shape[2:])


def adapter(into: int, out: int, relu: bool = False) -> nn.Sequential:
    """1x1 convolution without bias (Kaiming, fan out) + BatchNorm (gamma 1), optionally + ReLU."""
    convolution = Pointwise(into, out, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(out), *([nn.ReLU()] if relu else []))


def pooled(feature: Tensor) -> Tensor:
    """A feature map (N, C, H, W) averaged over its positions, (N, C)."""
    return feature.mean(dim=(2, 3))


def match_size(feature: Tensor, size: Sequence[int]) -> Tensor:
    """A feature map (N, C, H, W) pooled (or repeated) to ``size`` = (H', W'); unchanged if equal."""
    if feature.shape[-2:] == torch.Size(size):
        return feature
    return F.adaptive_avg_pool2d(feature, (size[0], size[1]))

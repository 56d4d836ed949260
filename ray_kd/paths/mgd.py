"""Masked generative distillation: the student's masked map generates the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.registry import PATHS
from ray_kd.data.draws import uniform
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full
from ray_kd.paths.detectors import LevelOptions, LevelPath
from ray_kd.paths.feature import match_size
from ray_kd.random_streams import forked, key


class MgdOptions(LevelOptions):
    """Options of MGD."""

    masked: Annotated[float, Field(ge=0, lt=1)] = 0.65
    """Share of positions that are masked."""


@PATHS.register("mgd", source="Yang et al., ECCV 2022, arXiv 2205.01529")
class Mgd(LevelPath):
    r"""Masked generative distillation (MGD): :math:`\sum_{chw} (G(m \odot A(F_s)) - F_t)^2`, mean over
    samples, one loss for each level.

    m masks each position with probability 0.65, for all channels; G are two 3x3 convolutions with a
    ReLU between, at the teacher's width. The sum over channels and positions makes the loss large and
    its static weight small. The mask is drawn from the seed, the epoch and the sample's id, so it is
    the same on any rank and in a second forward of a step, but differs between epochs. Target: the
    teacher's level.

    Source: Yang, Li, Shao, Shi, Yuan, Yuan, ECCV 2022, and its code: masked 0.65, static weight 2e-5 for
    one-stage detectors (5e-7 for two-stage ones). Deviation: a student level of another size is pooled
    to the teacher's.
    """

    published_weight: ClassVar[float] = 2e-5
    needs: ClassVar[tuple[str, ...]] = ("sample",)
    traits = frozenset({"stochastic"})
    zero_at_teacher: ClassVar[bool] = False
    Options = MgdOptions

    def setup(self) -> None:
        super().setup()
        self.epoch = 0
        self.generators = nn.ModuleDict()
        for stage in self.stages:
            width = self.teacher_channels[stage]
            with forked(self.seed, "generation", self.label, stage):
                self.generators[str(stage)] = nn.Sequential(
                    nn.Conv2d(width, width, kernel_size=3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(width, width, kernel_size=3, padding=1),
                )

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.epoch = epoch

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        sample = self.in_batch(batch, "sample")
        losses = {}
        for name, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            teacher = target[name]
            feature = match_size(feature, teacher.shape[-2:])
            kept = self.kept(sample, stage, (feature.shape[-2], feature.shape[-1]))
            found = self.generators[str(stage)](feature * kept.to(feature.dtype))
            with exact(found):
                losses[name] = self.stage_loss(full(found), teacher, stage)
        return losses

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        return (feature - target.to(feature.dtype)).square().sum() / len(feature)

    def kept(self, sample: Tensor, stage: int, size: tuple[int, int]) -> Tensor:
        """Whether each position of each sample is kept, (N, 1, H, W)."""
        stream = key(self.seed, "mask", self.label, stage)
        drawn = uniform(stream, "mask", sample, self.epoch, size[0] * size[1])
        return (drawn >= self.options.masked).view(-1, 1, *size)

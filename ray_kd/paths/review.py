"""ReviewKD: fuses deep student features into shallow ones before comparing stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import PathOptions
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full
from ray_kd.paths.feature import FeaturePath
from ray_kd.random_streams import forked


class ReviewOptions(PathOptions):
    """Options of ReviewKD."""

    width: Annotated[int, Field(ge=1)] | None = None
    """Channels of the fused features; None: those of the student's deepest stage, at most 512."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs over which the loss rises linearly to its full size."""


@PATHS.register("review", source="Chen et al., CVPR 2021, arXiv 2104.09044")
class Review(FeaturePath):
    """ReviewKD: attention-based fusion (ABF) from deep to shallow, hierarchical context loss (HCL).

    Levels are the stages and, deepest, the pooled features (loss ``<label>/pooled``). At each level the
    student's feature x goes through a 1x1 convolution; except at the deepest level, x and the fused feature y
    of the deeper level (resized) are summed with two sigmoid maps as weights, computed from both; the sum is
    this level's fused feature, and a 3x3 convolution of it is compared with the teacher's. HCL is the MSE of
    the maps plus 1/2, 1/4, 1/8 of the MSE of their poolings to 4x4, 2x2, 1x1 (only those smaller than the
    map), over the sum of weights.
    Target: the teacher's maps, whose pooling is the deepest level's.

    Source: Chen, Liu, Zhao, Jia, CVPR 2021, arXiv 2104.09044 and its code: 20 epochs of warm-up, static
    weight 1 (0.6 to 8 per pair). Deviation: the teacher's maps are taken after their ReLU, not before.
    """

    target_kind: ClassVar[str | None] = "feature"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    zero_at_teacher: ClassVar[bool] = False
    Options = ReviewOptions

    def setup(self) -> None:
        super().setup()
        self.stages = tuple(sorted(self.stages))
        self.stage_keys = tuple(f"{self.label}/stage{stage}" for stage in self.stages)
        into = [self.student_channels[stage] for stage in self.stages]
        out = [self.teacher_channels[stage] for stage in self.stages]
        width = self.options.width or min(512, into[-1])
        with forked(self.seed, "adapter", self.label):
            self.fusions = nn.ModuleList(
                [Fusion(a, width, b, fuse=True) for a, b in zip(into, out, strict=True)]
                + [Fusion(into[-1], width, out[-1], fuse=False)]
            )

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.stage_keys, f"{self.label}/pooled")

    def stage_target(self, feature: Tensor) -> Tensor:
        return feature

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        ours = [feature_of(student, stage, self.label) for stage in self.stages]
        theirs = [target[key] for key in self.stage_keys]
        ours.append(ours[-1].mean(dim=(2, 3), keepdim=True))
        theirs.append(theirs[-1].mean(dim=(2, 3), keepdim=True))
        handed: Tensor | None = None
        losses: dict[str, Tensor] = {}
        for key, fusion, feature, wanted in reversed(
            list(zip(self.keys, self.fusions, ours, theirs, strict=True))
        ):
            found, handed = fusion(feature, handed, wanted.shape[-2:])
            with exact(found):
                found = full(found)
                losses[key] = context_loss(found, wanted.to(found.dtype))
        return {key: losses[key] for key in self.keys}


class Fusion(nn.Module):
    """Attention-based fusion of a level's feature with the fused feature of the deeper level.

    Args:
        into, width, out: channels of the student's feature, of fused features, of the teacher's feature.
        fuse: False for the deepest level, which has no deeper one.
    """

    def __init__(self, into: int, width: int, out: int, fuse: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width))
        self.widen = nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuse else None
        for convolution in (self.narrow[0], self.widen[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]

    def forward(self, feature: Tensor, handed: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The feature to compare with the teacher's of ``size`` = (H, W), and the fused feature."""
        feature = self.narrow(feature)
        if self.attention is not None and handed is not None:
            handed = F.interpolate(handed, list(feature.shape[-2:]), mode="nearest")
            maps = self.attention(torch.cat([feature, handed], dim=1))
            feature = feature * maps[:, :1] + handed * maps[:, 1:]
        if feature.shape[-2:] != torch.Size(size):
            feature = F.interpolate(feature, list(size), mode="nearest")
        return self.widen(feature), feature


def context_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Hierarchical context loss of two maps (N, C, H, W)."""
    loss, weight, total = F.mse_loss(found, wanted), 1.0, 1.0
    for side in (4, 2, 1):
        if side < found.shape[2]:
            weight /= 2
            total += weight
            smaller = F.adaptive_avg_pool2d(found, side)
            loss = loss + weight * F.mse_loss(smaller, F.adaptive_avg_pool2d(wanted, side))
    return loss / total

"""Focal and global distillation: objects and background separately, and global relations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full
from ray_kd.paths.detectors import LevelOptions, LevelPath, objects
from ray_kd.paths.feature import match_size
from ray_kd.random_streams import forked


class Strengths(NamedTuple):
    """The factors of FGD's terms, and the temperature of attention."""

    alpha: float
    beta: float
    gamma: float
    relation: float
    temperature: float


PRESETS = {
    "retinanet": Strengths(1e-3, 5e-4, 5e-4, 5e-6, 0.5),
    "fcos": Strengths(1.6e-3, 8e-4, 8e-4, 8e-6, 0.8),
    "two_stage": Strengths(5e-5, 2.5e-5, 5e-5, 5e-7, 0.5),
}
"""Published values by kind of detector."""

Strength = Annotated[float, Field(ge=0)] | None


class FgdOptions(LevelOptions):
    """Options of FGD."""

    preset: Literal["retinanet", "fcos", "two_stage"] = "retinanet"
    """The kind of detector whose published values are the defaults of the next five options."""
    alpha: Strength = None
    """Strength of the squared error inside objects."""
    beta: Strength = None
    """Strength of the squared error of the background."""
    gamma: Strength = None
    """Strength of the difference of attention."""
    relation: Strength = None
    """Strength of the global relation, lambda."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Temperature of attention."""


@PATHS.register("fgd", source="Yang et al., CVPR 2022, arXiv 2111.11837")
class Fgd(LevelPath):
    r"""Focal and global distillation (FGD), one loss for each level, mean over samples:

    .. math:: \sum_{chw} (\alpha M + \beta B) S_t C_t (F_s - F_t)^2
              + \gamma (|S_s - S_t|_1 + |C_s - C_t|_1) + \lambda \| R_s(F_s) - R_t(F_t) \|^2

    :math:`S = HW softmax(\bar F / \tau)`, :math:`\bar F` the mean of |F| over channels, and
    :math:`C` likewise over channels of the mean over positions, are attention; M is the inverse area of
    the smallest object on a position, 0 outside, B the inverse count of the background's positions; R
    adds to every position a learnt context (attention pooling, two 1x1 convolutions with LayerNorm and
    ReLU between, the last starting at 0), one for the student and one for the teacher's side. The loss
    is a sum over channels and positions, so it grows with both. Boxes of crowds are ignored; images
    without objects have only background. Target: the teacher's level.

    Source: Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, CVPR 2022, and its code; ``preset`` has the published
    (alpha, beta, gamma, lambda, tau) of RetinaNet, FCOS and two-stage detectors, so the static weight
    is 1. Deviation: rows of a mask are y; a student level of another size is pooled to the teacher's.
    """

    published_weight: ClassVar[float] = 1.0
    needs: ClassVar[tuple[str, ...]] = ("image", "boxes", "box_label")
    Options = FgdOptions

    def setup(self) -> None:
        super().setup()
        chosen: Any = self.options
        given = {name: getattr(chosen, name) for name in Strengths._fields}
        self.strengths = PRESETS[chosen.preset]._replace(
            **{name: value for name, value in given.items() if value is not None}
        )
        self.relations = nn.ModuleDict()
        for stage in self.stages:
            with forked(self.seed, "relation", self.label, stage):
                width = self.teacher_channels[stage]
                self.relations[str(stage)] = nn.ModuleList([Relation(width), Relation(width)])

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        boxes, there = objects(self, batch)
        height, width = self.in_batch(batch, "image").shape[-2:]
        losses = {}
        for key, stage in zip(self.stage_keys, self.stages, strict=True):
            feature = self.adapt(feature_of(student, stage, self.label), stage)
            with exact(feature):
                feature = full(feature)
                teacher = target[key].to(feature.dtype)
                feature = match_size(feature, teacher.shape[-2:])
                scale = boxes.new_tensor([teacher.shape[-1] / width, teacher.shape[-2] / height]).repeat(2)
                mask = object_mask(boxes * scale, there, (teacher.shape[-2], teacher.shape[-1]))
                losses[key] = self.level_loss(feature, teacher, mask.to(feature.dtype), stage)
        return losses

    def stage_loss(self, feature: Tensor, target: Tensor, stage: int) -> Tensor:
        raise TypeError("the loss of FGD needs the batch")

    def level_loss(self, feature: Tensor, teacher: Tensor, mask: Tensor, stage: int) -> Tensor:
        """Scalar loss of a level (N, C, H, W) against the teacher's, given the mask M (N, H, W)."""
        alpha, beta, gamma, relation, temperature = self.strengths
        count = len(feature)
        background = (mask == 0).to(mask.dtype)
        background = background / background.sum(dim=(1, 2), keepdim=True).clamp_min(1)
        places, channels = attention(teacher, temperature)
        own_places, own_channels = attention(feature, temperature)
        error = (feature - teacher).square() * channels[:, :, None, None]
        focal = (error.sum(dim=1) * places * (alpha * mask + beta * background)).sum()
        apart = (own_places - places).abs().sum() + (own_channels - channels).abs().sum()
        ours, theirs = cast("list[Relation]", self.relations[str(stage)])
        whole = (ours(feature) - theirs(teacher)).square().sum()
        return (focal + gamma * apart + relation * whole) / count


class Relation(nn.Module):
    """Adds the attention pooling of the whole map to every position (GcNet's block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, kernel_size=1)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_in")
        nn.init.zeros_(cast(Tensor, self.attention.bias))
        narrow = max(1, channels // 2)
        last = nn.Conv2d(narrow, channels, kernel_size=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.transform = nn.Sequential(
            nn.Conv2d(channels, narrow, kernel_size=1), nn.LayerNorm([narrow, 1, 1]), nn.ReLU(), last
        )

    def forward(self, feature: Tensor) -> Tensor:
        """A map (N, C, H, W) plus its context."""
        share = self.attention(feature).flatten(1).softmax(dim=1)
        context = torch.einsum("ncp,np->nc", feature.flatten(2), share)
        return cast(Tensor, feature + self.transform(context[:, :, None, None]))


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Attention over positions (N, H, W), which sums to HW, and over channels (N, C), to C."""
    size = feature.abs()
    places = (size.mean(dim=1) / temperature).flatten(1).softmax(dim=1) * feature[0, 0].numel()
    channels = (size.mean(dim=(2, 3)) / temperature).softmax(dim=1) * feature.shape[1]
    return places.unflatten(1, feature.shape[2:]), channels


def object_mask(boxes: Tensor, there: Tensor, level: tuple[int, int]) -> Tensor:
    """The inverse area of the smallest object on each cell, 0 on background, (N, H, W).

    An object covers the cells from floor(low) to ceil(high), both included, as in the published code.

    Args:
        boxes: (N, M, 4), in cells.
        there: which of the boxes are objects, (N, M).
        level: height and width in cells.
    """
    low, high = boxes[..., :2].floor(), boxes[..., 2:].ceil()
    covered = []
    for axis, cells in ((1, level[0]), (0, level[1])):  # y, x
        place = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
        covered.append((place >= low[..., axis, None]) & (place <= high[..., axis, None]))
    share = there / (high - low + 1).prod(dim=-1)
    mask = boxes.new_zeros(len(boxes), *level)
    for index in range(boxes.shape[1]):
        rows, columns = (sides[:, index] for sides in covered)
        both = rows.unsqueeze(2) & columns.unsqueeze(1)
        mask = torch.maximum(mask, both * share[:, index, None, None])
    return mask

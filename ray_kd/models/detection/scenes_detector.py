"""A small one-stage detector for small images."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.detection.distribution import DistributionHead
from ray_kd.models.layers import conv_bn
from ray_kd.outputs import Outputs

_conv = partial(conv_bn, inplace=False)
FIRST_SCORE = 0.01
"""What every class probability is before training, so that the many empty points do not drown the rest."""


class ScenesDetectorOptions(ModelOptions):
    """Options of the scenes' detector."""

    width: Annotated[int, Field(ge=4, multiple_of=4)] = 16
    """Channels of the first stage; stage i has i times as many, each level of the pyramid twice as many."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Convolutions in each stage."""
    levels: Annotated[int, Field(ge=1, le=4)] = 2
    """Levels of the pyramid: strides 4, 8, 16, 32."""
    bins: Annotated[int, Field(ge=2)] = 9
    """Distances that an edge may have, 0 to bins - 1 strides (reg_max + 1; 17 in the source)."""
    reach: Annotated[float, Field(gt=0)] = 4.0
    """A level finds objects whose farthest edge is at most so many strides away; the last all larger ones."""
    radius: Annotated[float, Field(gt=0)] = 1.5
    """How far from an object's centre, in strides, a point is trained to find it."""
    least_score: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Predictions with a lower score are no detections."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """IoU above which the lesser of two detections of a class is dropped."""
    detections: Annotated[int, Field(ge=1)] = 100
    """Detections of an image, at most."""


@MODELS.register("scenes_detector", source="heads: Li et al., NeurIPS 2020, arXiv 2006.04388")
class ScenesDetector(StagedModel):
    """Stages of 3x3 convolution, BatchNorm, ReLU at strides 2, 4, 8, ...; a feature pyramid (Lin et al., CVPR
    2017, arXiv 1612.03144) on all but the first; a head shared by its levels, one convolution with GroupNorm
    deep, that predicts class by class, and boxes as distributions (``DistributionHead``).

    ``features`` are the pyramid's levels. Levels share the head and have no scale of their own.
    """

    tasks = ("detection",)
    last_layers = ("head.0",)
    Options = ScenesDetectorOptions

    def __init__(self, options: ScenesDetectorOptions, classes: int, channels: int) -> None:
        super().__init__()
        self.options = options
        widths = [channels, *(options.width * (i + 1) for i in range(options.levels + 1))]
        self.stages = nn.Sequential(*(_stage(a, b, options.blocks) for a, b in pairwise(widths)))
        self.strides = tuple(4 << level for level in range(options.levels))
        size = 2 * options.width
        self.stage_channels = (size,) * options.levels
        self.lateral = nn.ModuleList(nn.Conv2d(width, size, 1) for width in widths[2:])
        self.smooth = nn.ModuleList(_conv(size, size) for _ in self.strides)
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, size, 3, padding=1, bias=False), nn.GroupNorm(4, size), nn.ReLU())
            for _ in range(2)
        )
        never = math.log(FIRST_SCORE / (1 - FIRST_SCORE))
        self.head = nn.ModuleList(
            [_last_layer(size, classes, never), _last_layer(size, 4 * options.bins, 0.0)]
        )

    def raw(self, image: Tensor) -> Outputs:
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        above, levels = None, []
        for lateral, deep in zip(reversed(self.lateral), reversed(maps[2:]), strict=True):
            here = lateral(deep)
            above = here if above is None else here + F.interpolate(above, here.shape[-2:])
            levels.append(above)
        features = tuple(smooth(level) for smooth, level in zip(self.smooth, reversed(levels), strict=True))
        logits, bins = (
            torch.cat([last(tower(level)).flatten(2) for level in features], 2).transpose(1, 2)
            for tower, last in zip(self.towers, cast(nn.ModuleList, self.head), strict=True)
        )
        return Outputs(features, logits, {"bins": bins.unflatten(2, (4, self.options.bins))})

    def forward(self, image: Tensor) -> Outputs:
        outputs, options = self.raw(image), self.options
        outputs.head = DistributionHead(
            tuple((level.shape[2], level.shape[3]) for level in outputs.features),
            self.strides,
            image.device,
            image_size=(image.shape[2], image.shape[3]),
            reach=options.reach,
            radius=options.radius,
            least_score=options.least_score,
            overlap=options.overlap,
            most=options.detections,
        )
        return outputs


def _last_layer(channels: int, many: int, bias: float) -> nn.Conv2d:
    last = nn.Conv2d(channels, many, 3, padding=1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(cast(Tensor, last.bias), bias)
    return last


def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(_conv(before, after, stride=2), *(_conv(after, after) for _ in range(blocks - 1)))

"""ShuffleNetV2 for small images."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn, shuffle, stack_stages

STEM, BLOCKS = 24, (4, 8, 4)
WIDTHS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Channels of the three stages and of the neck, by width."""


def _published(value: float) -> float:
    if value not in WIDTHS:
        raise ValueError(f"expected one of {', '.join(f'{width:g}' for width in WIDTHS)}, got {value:g}")
    return value


class ShuffleNetV2Options(ModelOptions):
    """Options of ShuffleNetV2 for small images."""

    width: Annotated[float, AfterValidator(_published)] = 1.0
    """Which of the published widths; 1 in the distillation tables."""


@MODELS.register("shufflenet_v2", source="Ma et al., ECCV 2018, arXiv 1807.11164")
class ShuffleNetV2(StagedModel):
    """ShuffleNetV2 as CIFAR's distillation tables use it (RepDistiller, mdistiller).

    A stem of 1x1 convolution without stride, then three stages on 16x16, 8x8 and 4x4, each a tap; the
    stem belongs to the first, the last 1x1 convolution is the ``neck``.
    """

    Options = ShuffleNetV2Options

    def __init__(self, options: ShuffleNetV2Options, classes: int, channels: int) -> None:
        super().__init__()
        *widths, last = WIDTHS[options.width]
        stem = conv_bn(channels, STEM, kernel=1)
        self.stages = stack_stages(stem, STEM, widths, BLOCKS, (2, 2, 2), _unit)
        self.stage_channels = tuple(widths)
        self.neck = conv_bn(widths[-1], last, kernel=1)
        self.head = nn.Linear(last, classes)


class Unit(nn.Module):
    """Half of the channels pass, half go through 1x1, depthwise 3x3 and 1x1; then they are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            conv_bn(half, half, kernel=1),
            conv_bn(half, half, groups=half, relu=False),
            conv_bn(half, half, kernel=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        left, right = image.chunk(2, dim=1)
        return shuffle(torch.cat([left, self.body(right)], dim=1), 2)


class Down(nn.Module):
    """Two branches that halve the size, next to each other."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.left = nn.Sequential(
            conv_bn(into, into, stride=2, groups=into, relu=False), conv_bn(into, half, kernel=1)
        )
        self.right = nn.Sequential(
            conv_bn(into, half, kernel=1),
            conv_bn(half, half, stride=2, groups=half, relu=False),
            conv_bn(half, half, kernel=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return shuffle(torch.cat([self.left(image), self.right(image)], dim=1), 2)


def _unit(into: int, out: int, stride: int) -> nn.Module:
    return Down(into, out) if stride == 2 else Unit(out)

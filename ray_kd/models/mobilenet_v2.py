"""MobileNetV2 for small images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn, initialise

GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels at width 1, blocks and stride of each group of inverted residuals."""
TAPS = (1, 2, 4, 6)
"""Groups that end a stage."""


class MobileNetV2Options(ModelOptions):
    """Options of MobileNetV2 for small images."""

    width: Annotated[float, Field(gt=0)] = 0.5
    """Factor on the channels; 0.5 in the distillation tables (MobileNetV2, also called mobile_half)."""


@MODELS.register("mobilenet_v2", source="Sandler et al., CVPR 2018, arXiv 1801.04381")
class MobileNetV2(StagedModel):
    """MobileNetV2 as CIFAR's distillation tables use it (RepDistiller, mdistiller, after RCO).

    Strides: 2 in the stem and in groups 3, 4 and 6, so 32x32 images end at 2x2. Four taps, after groups
    2, 3, 5 and 7; the last 1x1 convolution is the ``neck``. ReLU, not ReLU6; no dropout; the first group
    of blocks has its expansion convolution too, all as in those tables.
    """

    Options = MobileNetV2Options

    def __init__(self, options: MobileNetV2Options, classes: int, channels: int) -> None:
        super().__init__()
        into = int(32 * options.width)
        stages: list[nn.Sequential] = []
        chain: list[nn.Module] = [conv_bn(channels, into, stride=2)]
        for group, (expansion, width, blocks, stride) in enumerate(GROUPS):
            out = int(width * options.width)
            for block in range(blocks):
                chain.append(InvertedResidual(into, out, expansion, stride if block == 0 else 1))
                into = out
            if group in TAPS:
                stages.append(nn.Sequential(*chain))
                chain = []
        self.stages = nn.Sequential(*stages)
        self.stage_channels = tuple(int(GROUPS[group][1] * options.width) for group in TAPS)
        last = int(1280 * max(1.0, options.width))
        self.neck = conv_bn(into, last, kernel=1)
        self.head = nn.Linear(last, classes)
        initialise(self, linear=0.01)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection, beside the input where the shapes agree."""

    def __init__(self, into: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = into * expansion
        self.body = nn.Sequential(
            conv_bn(into, wide, kernel=1),
            conv_bn(wide, wide, stride=stride, groups=wide),
            conv_bn(wide, out, kernel=1, relu=False),
        )
        self.residual = stride == 1 and into == out

    def forward(self, image: Tensor) -> Tensor:
        return image + self.body(image) if self.residual else self.body(image)

"""ShuffleNet for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn, shuffle, stack_stages

GROUPS, STEM = 3, 24
WIDTHS, BLOCKS = (240, 480, 960), (4, 8, 4)


class ShuffleNetV1Options(ModelOptions):
    """Options of ShuffleNet for small images."""


@MODELS.register("shufflenet_v1", source="Zhang et al., CVPR 2018, arXiv 1707.01083")
class ShuffleNetV1(StagedModel):
    """ShuffleNet 1x with three groups, as CIFAR's distillation tables use it (RepDistiller, mdistiller).

    A stem of 1x1 convolution without stride, then three stages on 16x16, 8x8 and 4x4, each a tap; the
    stem belongs to the first.
    """

    Options = ShuffleNetV1Options

    def __init__(self, options: ShuffleNetV1Options, classes: int, channels: int) -> None:
        super().__init__()
        stem = conv_bn(channels, STEM, kernel=1)
        self.stages = stack_stages(stem, STEM, WIDTHS, BLOCKS, (2, 2, 2), ShuffleUnit)
        self.stage_channels = WIDTHS
        self.head = nn.Linear(WIDTHS[-1], classes)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; beside the input, or with stride 2 next to its
    pooled channels."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        made = out - into if stride == 2 else out
        middle = made // 4
        self.groups = 1 if into == STEM else GROUPS
        self.squeeze = conv_bn(into, middle, kernel=1, groups=self.groups)
        self.spread = nn.Sequential(
            conv_bn(middle, middle, stride=stride, groups=middle),
            conv_bn(middle, made, kernel=1, groups=GROUPS, relu=False),
        )
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor:
        made = self.spread(shuffle(self.squeeze(image), self.groups))
        if self.stride == 1:
            return (image + made).relu()
        return torch.cat([made, F.avg_pool2d(image, 3, stride=2, padding=1)], dim=1).relu()

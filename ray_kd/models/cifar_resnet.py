"""The thin residual networks of CIFAR's distillation tables."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn, initialise, stack_stages


class CifarResNetOptions(ModelOptions):
    """Options of CIFAR's residual networks."""

    depth: Literal[8, 14, 20, 32, 44, 56, 110] = 20
    width: Literal[1, 4] = 1
    """1: 16, 32, 64 channels (resnet20 ... resnet110); 4: 64, 128, 256 (resnet8x4, resnet32x4)."""


@MODELS.register("cifar_resnet", source="He et al., CVPR 2016, arXiv 1512.03385, section 4.2")
class CifarResNet(StagedModel):
    """Three stages of basic blocks on 32x32, 16x16 and 8x8; the stem belongs to the first.

    The taps are those that distillation tables use (RepDistiller, mdistiller): after the ReLU that ends
    a stage. Shortcuts that change the shape are 1x1 convolutions with BatchNorm, as there; the paper's own
    pad with zeros. ``width: 4`` has a stem of 32 channels.
    """

    Options = CifarResNetOptions

    def __init__(self, options: CifarResNetOptions, classes: int, channels: int) -> None:
        super().__init__()
        blocks, stem = (options.depth - 2) // 6, 16 if options.width == 1 else 32
        self.stage_channels = tuple(16 * options.width * 2**stage for stage in range(3))
        first = conv_bn(channels, stem)
        self.stages = stack_stages(first, stem, self.stage_channels, [blocks] * 3, (1, 2, 2), BasicBlock)
        self.head = nn.Linear(self.stage_channels[-1], classes)
        initialise(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, ReLU after their sum."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(into, out, stride=stride), conv_bn(out, out, relu=False))
        same = stride == 1 and into == out
        self.shortcut = nn.Identity() if same else conv_bn(into, out, kernel=1, stride=stride, relu=False)

    def forward(self, image: Tensor) -> Tensor:
        return (self.body(image) + self.shortcut(image)).relu()

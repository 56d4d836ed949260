"""Residual networks, for photographs or for 32x32 images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel


class ResNetOptions(ModelOptions):
    """Options of residual networks."""

    depth: Literal[18, 34, 50] = 18
    small_input: bool = True
    """A 3x3 stem without pooling, as CIFAR's tables use it; false: ImageNet's 7x7 stem."""


@MODELS.register("resnet", source="He et al., CVPR 2016, arXiv 1512.03385")
class ResNet(StagedModel):
    """torchvision's ResNet with its four stages as taps; the stem belongs to the first."""

    Options = ResNetOptions

    def __init__(self, options: ResNetOptions, classes: int, channels: int) -> None:
        super().__init__()
        from torchvision import models  # three seconds of import, only where it is used

        net = getattr(models, f"resnet{options.depth}")(num_classes=classes)
        if options.small_input or channels != 3:
            kernel, stride = (3, 1) if options.small_input else (7, 2)
            net.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        stem = [net.conv1, net.bn1, net.relu] + ([] if options.small_input else [net.maxpool])
        self.stages = nn.Sequential(nn.Sequential(*stem, net.layer1), net.layer2, net.layer3, net.layer4)
        expansion = 4 if options.depth == 50 else 1
        self.stage_channels = tuple(channels * expansion for channels in (64, 128, 256, 512))
        self.head = net.fc

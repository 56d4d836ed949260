"""A small convolutional network for 8x8 images, in four stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn


class DigitsCnnOptions(ModelOptions):
    """Options of the digits' network."""

    width: Annotated[int, Field(ge=1)] = 8
    """Channels of the first stage; the others have 1.5, 2 and 3 times as many."""


@MODELS.register("digits_cnn")
class DigitsCnn(StagedModel):
    """Four stages of 3x3 convolution, BatchNorm, ReLU: 8x8, 8x8, 4x4 and 2x2 (stride 2 twice)."""

    Options = DigitsCnnOptions

    def __init__(self, options: DigitsCnnOptions, classes: int, channels: int) -> None:
        super().__init__()
        width = options.width
        self.stage_channels = (width, width * 3 // 2, width * 2, width * 3)
        into = (channels, *self.stage_channels[:-1])
        self.stages = nn.Sequential(
            *(
                conv_bn(before, after, stride=stride, inplace=False)
                for before, after, stride in zip(into, self.stage_channels, (1, 1, 2, 2), strict=True)
            )
        )
        self.head = nn.Linear(self.stage_channels[-1], classes)

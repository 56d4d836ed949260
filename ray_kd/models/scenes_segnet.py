"""A small network for the segmentation of scenes: an encoder of four stages, and fusion from the top down."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import conv_bn
from ray_kd.outputs import Outputs

_conv = partial(conv_bn, inplace=False)


class ScenesSegnetOptions(ModelOptions):
    """Options of the scenes' segmentation network."""

    width: Annotated[int, Field(ge=1)] = 8
    """Channels of the first stage; the others have 1.5, 2 and 3 times as many, the fusion 1.5 times."""


@MODELS.register("scenes_segnet")
class ScenesSegnet(StagedModel):
    """Stages of strides 1, 2, 4 and 8 with one, two, two and two 3x3 convolutions, BatchNorm and ReLU.

    Stages 4 to 2 are brought to one width by 1x1 convolutions and added from the top down (as a feature
    pyramid does, Lin et al., CVPR 2017, arXiv 1612.03144); a 3x3 convolution and the classifier give logits
    at half the image's resolution. Taps are the four stages of the encoder.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    Options = ScenesSegnetOptions

    def __init__(self, options: ScenesSegnetOptions, classes: int, channels: int) -> None:
        super().__init__()
        width = options.width
        self.stage_channels = (width, width * 3 // 2, width * 2, width * 3)
        into = (channels, *self.stage_channels[:-1])
        self.stages = nn.Sequential(
            _conv(channels, width),
            *(
                nn.Sequential(_conv(before, after, stride=2), _conv(after, after))
                for before, after in zip(into[1:], self.stage_channels[1:], strict=True)
            ),
        )
        fused = width * 3 // 2
        self.laterals = nn.ModuleList(nn.Conv2d(after, fused, 1) for after in self.stage_channels[1:])
        self.fusion = _conv(fused, fused)
        self.head = nn.Conv2d(fused, classes, 1)

    def forward(self, image: Tensor) -> Outputs:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        fused = None
        for lateral, feature in zip(reversed(self.laterals), reversed(features[1:]), strict=True):
            own = lateral(feature)
            fused = own if fused is None else own + F.interpolate(fused, size=own.shape[-2:])
        return Outputs(tuple(features), self.head(self.fusion(fused)))

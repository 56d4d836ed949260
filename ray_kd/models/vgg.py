"""VGG for small images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import initialise

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""How many of them each of the five blocks has, by depth."""


class VggOptions(ModelOptions):
    """Options of VGG."""

    depth: Literal[8, 11, 13, 16, 19] = 8
    pools: Literal[3, 4] = 3
    """Poolings between the blocks: 3 for images of 32x32 (the last two blocks both see 4x4), 4 for 64x64."""


@MODELS.register("vgg", source="Simonyan & Zisserman, ICLR 2015, arXiv 1409.1556")
class Vgg(StagedModel):
    """VGG with BatchNorm and one linear layer, as CIFAR's distillation tables use it.

    Four taps, after the last ReLU of blocks 2 to 5 (RepDistiller's and mdistiller's); block 1 belongs to
    the first stage. The poolings come before the blocks.
    """

    Options = VggOptions

    def __init__(self, options: VggOptions, classes: int, channels: int) -> None:
        super().__init__()
        blocks: list[list[nn.Module]] = []
        into = channels
        for place, (count, width) in enumerate(zip(CONVOLUTIONS[options.depth], WIDTHS, strict=True)):
            block: list[nn.Module] = [nn.MaxPool2d(2)] if 0 < place <= options.pools else []
            for _ in range(count):
                block += [nn.Conv2d(into, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                into = width
            blocks.append(block)
        blocks[1:2] = [blocks[0] + blocks[1]]
        self.stages = nn.Sequential(*(nn.Sequential(*block) for block in blocks[1:]))
        self.stage_channels = WIDTHS[1:]
        self.head = nn.Linear(into, classes)
        initialise(self, linear=0.01)

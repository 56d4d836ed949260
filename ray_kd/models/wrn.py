"""Wide residual networks for small images."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.base import StagedModel
from ray_kd.models.layers import initialise, stack_stages


def _depth(value: int) -> int:
    if value < 10 or value % 6 != 4:
        near = max(10, round((value - 4) / 6) * 6 + 4)
        raise ValueError(f"expected 6n + 4 (10, 16, 22, 28, 34, 40 ...), got {value}; the nearest is {near}")
    return value


class WrnOptions(ModelOptions):
    """Options of wide residual networks."""

    depth: Annotated[int, AfterValidator(_depth)] = 16
    width: Annotated[int, Field(ge=1)] = 2
    """Factor on the 16, 32, 64 channels of the three stages: depth 40, width 2 is WRN-40-2."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share dropped between the two convolutions of a block."""


@MODELS.register("wrn", source="Zagoruyko & Komodakis, BMVC 2016, arXiv 1605.07146")
class Wrn(StagedModel):
    """WRN-depth-width: three stages of pre-activation blocks on 32x32, 16x16 and 8x8.

    A tap is the sum that ends a stage, before the next BatchNorm and ReLU, as distillation tables have it
    (RepDistiller, mdistiller); BatchNorm and ReLU before the head are its ``neck``.
    """

    Options = WrnOptions

    def __init__(self, options: WrnOptions, classes: int, channels: int) -> None:
        super().__init__()
        self.stage_channels = tuple(16 * options.width * 2**stage for stage in range(3))
        stem, blocks = nn.Conv2d(channels, 16, 3, padding=1, bias=False), [(options.depth - 4) // 6] * 3
        block = partial(PreActivation, dropout=options.dropout)
        self.stages = stack_stages(stem, 16, self.stage_channels, blocks, (1, 2, 2), block)
        into = self.stage_channels[-1]
        self.neck = nn.Sequential(nn.BatchNorm2d(into), nn.ReLU(inplace=True))
        self.head = nn.Linear(into, classes)
        initialise(self)
        nn.init.zeros_(self.head.bias)


class PreActivation(nn.Module):
    """BatchNorm, ReLU, convolution, twice, beside a shortcut; a shortcut that changes the width reads the
    activated input."""

    def __init__(self, into: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(into), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
        )
        self.shortcut = None if into == out else nn.Conv2d(into, out, 1, stride=stride, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        active = self.before(image)
        return self.body(active) + (image if self.shortcut is None else self.shortcut(active))

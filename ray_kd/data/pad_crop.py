"""Pad, crop, flip: the augmentation of CIFAR's published recipes, vectorised."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.registry import VIEWS
from ray_kd.data.draws import uniform
from ray_kd.data.mixing import MixedViews, MixOptions


class PadCropOptions(MixOptions):
    """Options of padding, cropping and flipping."""

    padding: Annotated[int, Field(ge=0)] = 4
    """Pixels added on each side before a crop of the image's own size."""
    fill: Literal["black", "edge", "reflect"] = "black"
    """What they hold; where a dataset does not know its mean and std, black is 0 after its scaling."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""


@VIEWS.register(
    "pad_crop", source="Lee et al., AISTATS 2015, arXiv 1409.5185; He et al., CVPR 2016, arXiv 1512.03385"
)
class PadCrop(MixedViews):
    """Pad, crop at random to the image's own size, flip horizontally; Mixup and CutMix on request.

    Source: Lee et al., AISTATS 2015, arXiv 1409.5185, as He et al., CVPR 2016, arXiv 1512.03385, section
    4.2 train on CIFAR: 4 pixels of zeros on each side, a 32x32 crop, a flip with probability 0.5.
    Vectorised over images of one size, on any device.
    """

    Options = PadCropOptions

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        options = self.options
        height, width = images.shape[-2:]
        if options.fill == "reflect" and options.padding >= min(height, width):
            raise UserError(
                f"views pad_crop: padding: expected less than {min(height, width)}, the image's side, to "
                f"reflect, got {options.padding}."
            )
        draw = uniform(options.seed, "pad_crop", samples, view, 3)
        offset = (draw[:, :2] * (2 * options.padding + 1)).long() - options.padding
        rows = torch.arange(height, device=images.device) + offset[:, :1]
        columns = torch.arange(width, device=images.device) + offset[:, 1:]
        columns = torch.where(draw[:, 2:] < options.flip, columns.flip(1), columns)
        index = self._within(rows, height).unsqueeze(2) * width + self._within(columns, width).unsqueeze(1)
        flat = images.flatten(2)
        index = index.view(len(images), 1, -1).expand(-1, flat.shape[1], -1)
        moved = flat.gather(2, index).view_as(images)
        if options.fill == "black" and options.padding:
            inside = _inside(rows, height).unsqueeze(2) & _inside(columns, width).unsqueeze(1)
            moved = torch.where(inside.unsqueeze(1), moved, self._black(images))
        return moved

    def _within(self, places: Tensor, side: int) -> Tensor:
        if self.options.fill == "reflect":
            return (side - 1) - ((side - 1) - places.abs()).abs()
        return places.clamp(0, side - 1)

    def _black(self, images: Tensor) -> Tensor:
        """A black pixel (C, 1, 1) as the dataset normalises it."""
        if self.mean is None or self.std is None:
            return images.new_zeros(1, 1, 1)
        return (-images.new_tensor(self.mean) / images.new_tensor(self.std)).view(-1, 1, 1)


def _inside(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)

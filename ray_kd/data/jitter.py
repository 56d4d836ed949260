"""A joint view of image, mask and boxes for small sets that lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.boxes import area
from ray_kd.config.options import ViewOptions
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import Split
from ray_kd.data.draws import uniform
from ray_kd.data.views import Views
from ray_kd.outputs import IGNORE

LEFT = 0.35
"""A box stays where so much of it stays inside."""


class JitterOptions(ViewOptions):
    """Options of joint jitter."""

    pixels: Annotated[int, Field(ge=0)] = 4
    """Largest shift in each direction, by whole pixels."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest relative change of size, about the centre."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of contrast, about the mean that images are normalised with."""
    brightness: Annotated[float, Field(ge=0)] = 0.2
    """Largest change of brightness, in the standard deviations that images are normalised with."""


@VIEWS.register("jitter")
class Jitter(Views):
    """Shift by whole pixels, scale, change contrast and brightness; mask and boxes move with the image.

    Without flips: digits and letters have a right way round. The image is interpolated bilinearly and the
    uncovered border filled with its edge; the mask takes the nearest pixel, and IGNORE where there was
    none. Boxes are cut to the image, and dropped where less than 35 % of one is left.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    Options = JitterOptions

    def __call__(self, batch: Mapping[str, Tensor], view: int, split: Split) -> dict[str, Tensor]:
        images, samples = batch["image"], batch["sample"]
        draw = self._draw(samples, view)
        moved = {**batch, "image": self._image(images, draw)}
        if "mask" in batch:
            mask = (batch["mask"] - IGNORE).unsqueeze(1).to(images.dtype)  # outside is 0, that is IGNORE
            grid = self._grid(mask, draw)
            found = F.grid_sample(mask, grid, mode="nearest", align_corners=False)
            moved["mask"] = found.round().to(batch["mask"].dtype).squeeze(1) + IGNORE
        if "boxes" in batch:
            moved["boxes"], kept = self._boxes(batch["boxes"], images, draw)
            moved["box_label"] = torch.where(kept, batch["box_label"], -1)
        return moved

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        return self._image(images, self._draw(samples, view))

    def _draw(self, samples: Tensor, view: int) -> Tensor:
        """Shift to the right and down in pixels, size, contrast, brightness, (B, 5)."""
        options = self.options
        draw = uniform(options.seed, "jitter", samples, view, 5)
        shift = (draw[:, :2] * (2 * options.pixels + 1)).floor() - options.pixels
        change = draw[:, 2:] * 2 - 1
        size, contrast = 1 + change[:, 0] * options.scale, 1 + change[:, 1] * options.contrast
        return torch.cat([shift, torch.stack([size, contrast, change[:, 2] * options.brightness], 1)], 1)

    def _image(self, images: Tensor, draw: Tensor) -> Tensor:
        grid = self._grid(images, draw)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        contrast, brightness = draw[:, 3:].to(images.dtype).view(-1, 2, 1, 1, 1).unbind(1)
        return moved * contrast + brightness

    @staticmethod
    def _grid(images: Tensor, draw: Tensor) -> Tensor:
        """Where in the old image each pixel of the new one lies, (B, H, W, 2) in [-1, 1]."""
        height, width = images.shape[-2:]
        lines = []
        for length, shift in ((width, draw[:, :1]), (height, draw[:, 1:2])):
            centres = torch.arange(length, device=images.device) + (0.5 - length / 2)
            lines.append((centres - shift) / draw[:, 2:3] * (2 / length))
        across, down = lines
        grid = torch.stack(
            [
                across.unsqueeze(1).expand(-1, height, -1),
                down.unsqueeze(2).expand(-1, -1, width),
            ],
            dim=3,
        )
        return grid.to(images.dtype)

    @staticmethod
    def _boxes(boxes: Tensor, images: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, M, 4) moved and cut, and which of them stay (B, M); the others are 0."""
        height, width = images.shape[-2:]
        sides = boxes.new_tensor([width, height, width, height])
        shift = draw[:, [0, 1, 0, 1]].unsqueeze(1)
        moved = (boxes - sides / 2) * draw[:, 2].view(-1, 1, 1) + sides / 2 + shift
        cut = torch.minimum(moved.clamp_min(0), sides)
        kept = area(cut) > LEFT * area(moved)  # of padding neither is
        return torch.where(kept.unsqueeze(2), cut, torch.zeros_like(cut)), kept

"""How a scene of handwritten digits is drawn: many scenes at once, each a pure function of its number."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.data.base import LabelOptions
from ray_kd.data.draws import uniform
from ray_kd.outputs import IGNORE
from ray_kd.random_streams import generator

INK, FAINT = 0.5, 0.3
"""Opacity from which a pixel belongs to a digit, and below which it belongs to the background; between the
two it belongs to neither, and the mask is IGNORE."""
VISIBLE, SMALLEST = 0.35, 12
"""An object stays one where this share of its ink is seen, and so many pixels of it."""


class ScenesOptions(LabelOptions):
    """Options of the scenes."""

    labels: Annotated[int, Field(ge=1)] | None = None
    """Labelled training scenes the student may use, of ``train`` the first ones (with ``label_seed`` any);
    None: all of them."""
    train: Annotated[int, Field(ge=1)] = 600
    """Training scenes there are; a teacher sees them all."""
    validation: Annotated[int, Field(ge=1)] = 150
    """Scenes kept for validation."""
    test: Annotated[int, Field(ge=1)] = 300
    """Scenes kept for the one reading at the end."""
    size: Annotated[int, Field(ge=24, le=512)] = 48
    """Height and width in pixels."""
    channels: Literal[1, 3] = 3
    """3: coloured, 1: grey."""
    objects: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1, le=50)]] = (1, 4)
    """Fewest and most digits in a scene."""
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.3, 0.6)
    """Smallest and largest side of a digit, as a share of the scene's."""
    clutter: Annotated[int, Field(ge=0)] = 4
    """Distractors in each scene: strokes, and halves of digits."""
    contrast: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """By how much a digit is lighter or darker than its scene, at least; black to white is 1."""
    ink: Literal["both", "light"] = "both"
    """light: digits and distractors are lighter than their scene; both: lighter or darker."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.08
    """Standard deviation of the noise on every pixel."""
    seed: int = 0
    """Key of everything that is drawn; a sweep redraws it where its ``vary`` lists split."""

    def overlap(self) -> float | None:
        """Scenes are drawn anew, but of digits that are dealt out to the splits anew: 539 test, 899 train."""
        return 539 / 899


class Painter:
    """Draws scenes number ``index`` of a stream.

    Args:
        options: what they look like; their ``seed``, with ``stream``, is the key of all that is drawn.
        digits: images to choose from (D, 8, 8), opacity in [0, 1].
        labels: their classes (D,).
        index: numbers of the scenes (N,).
    """

    def __init__(
        self, options: ScenesOptions, digits: Tensor, labels: Tensor, stream: str, index: Tensor
    ) -> None:
        self.options, self.digits, self.labels = options, digits, labels
        self.seed, self.stream, self.index = options.seed, stream, index
        darkest, lightest = (0.1, 0.4) if options.ink == "light" else (0.25, 0.75)
        self.lightness = darkest + (lightest - darkest) * self._draw("lightness", 1)
        centres = (torch.arange(options.size) + 0.5) / options.size
        self.y, self.x = centres.view(1, -1, 1), centres.view(1, 1, -1)

    def scenes(self) -> dict[str, Tensor]:
        """image (N, C, S, S) in [0, 1], mask (N, S, S), boxes (N, M, 4), box_label (N, M)."""
        images = self._background()
        for number in range(self.options.clutter):
            opacity = self._fragment(number) if number % 2 else self._stroke(number)
            images = self._paint(images, opacity, f"distractor {number}")
        low, high = self.options.objects
        count = low + (self._draw("count", 1) * (high - low + 1)).long()
        owner = torch.full((len(self.index), self.options.size, self.options.size), -1)
        opacities, labels = [], []
        for number in range(high):
            opacity, label = self._digit(f"object {number}")
            opacity = opacity * (number < count).view(-1, 1, 1)
            images = self._paint(images, opacity, f"object {number}")
            owner[opacity > INK] = number
            opacities.append(opacity)
            labels.append(label)
        images = (images + self.options.noise * self._grain()).clamp_(0, 1)
        return {"image": images, **labelled(owner, torch.stack(opacities), torch.stack(labels, 1))}

    def _draw(self, what: str, count: int) -> Tensor:
        return uniform(self.seed, f"scenes/{self.stream}/{what}", self.index, 0, count)

    def _grain(self) -> Tensor:
        """Noise (N, C, S, S), uniform, of standard deviation 1."""
        shape = (self.options.channels, self.options.size, self.options.size)
        rows = [
            torch.rand(shape, generator=generator(self.seed, f"scenes/{self.stream}/grain", number))
            for number in self.index.tolist()
        ]  # a generator for each scene costs a fifth of so many counters
        return (torch.stack(rows) - 0.5) * 12**0.5

    def _background(self) -> Tensor:
        """A gradient in a random direction, and smooth noise."""
        size, channels = self.options.size, self.options.channels
        slope = (self._draw("slope", 2) - 0.5) * 0.5
        ramp = slope[:, :1, None] * (self.y - 0.5) + slope[:, 1:, None] * (self.x - 0.5)
        coarse = (self._draw("clouds", channels * 36).view(-1, channels, 6, 6) - 0.5) * 0.3
        clouds = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
        return self.lightness.view(-1, 1, 1, 1) + ramp.unsqueeze(1) + clouds

    def _paint(self, images: Tensor, opacity: Tensor, what: str) -> Tensor:
        """Something of one colour, lighter (or darker) than the scene by ``contrast`` at least."""
        draw = self._draw(f"{what} colour", 2 + self.options.channels)
        lightness = self.lightness.squeeze(1)
        change = self.options.contrast + 0.25 * draw[:, 0]
        darker = (lightness + change > 1) | ((lightness >= change) & (draw[:, 1] < 0.5))
        if self.options.ink == "light":
            darker = torch.zeros_like(darker)
        level = lightness + torch.where(darker, -change, change)
        tint = draw[:, 2:] - 0.5
        tint = 0.4 * (tint - tint.mean(dim=1, keepdim=True))
        colour = (level.unsqueeze(1) + tint).clamp(0, 1)[:, :, None, None]
        return torch.lerp(images, colour.expand_as(images), opacity.unsqueeze(1).expand_as(images))

    def _digit(self, what: str) -> tuple[Tensor, Tensor]:
        """Opacity (N, S, S) and classes (N,) of a digit at random place, size and angle."""
        draw = self._draw(what, 5)
        chosen = (draw[:, 0] * len(self.labels)).long()
        low, high = self.options.scale
        side = low + (high - low) * draw[:, 1]
        angle = (draw[:, 2] - 0.5) * 0.5
        margin = 0.45 * side.unsqueeze(1)
        place = margin + (1 - 2 * margin) * draw[:, 3:]
        return self._place(self.digits[chosen], side, angle, place), self.labels[chosen]

    def _place(self, patches: Tensor, side: Tensor, angle: Tensor, place: Tensor) -> Tensor:
        """Patches (N, 8, 8) of a side (share of the scene's), turned, centred at a place (x, y)."""
        dx, dy = 2 * (self.x - place[:, :1, None]), 2 * (self.y - place[:, 1:, None])
        cos, sin = (angle.cos() / side).view(-1, 1, 1), (angle.sin() / side).view(-1, 1, 1)
        grid = torch.stack([cos * dx + sin * dy, cos * dy - sin * dx], 3)  # where in the patch a pixel lies
        return F.grid_sample(patches.unsqueeze(1), grid, align_corners=False).squeeze(1)

    def _fragment(self, number: int) -> Tensor:
        """Half of a digit, cut through its centre in a random direction: ink as a digit's, but no digit."""
        what = f"fragment {number}"
        draw = self._draw(what, 6)
        direction = 2 * torch.pi * draw[:, 5]
        across = torch.linspace(-1, 1, 8)
        side = across.view(1, 8, 1) * direction.sin().view(-1, 1, 1)
        side = side + across.view(1, 1, 8) * direction.cos().view(-1, 1, 1)
        patches = self.digits[(draw[:, 0] * len(self.labels)).long()] * (side > 0)
        low, high = self.options.scale
        return self._place(patches, low + (high - low) * draw[:, 1], 2 * torch.pi * draw[:, 2], draw[:, 3:5])

    def _stroke(self, number: int) -> Tensor:
        """A straight stroke about as thick as a digit's."""
        draw = self._draw(f"stroke {number}", 5)
        x, y, angle, length, width = (value.view(-1, 1, 1) for value in draw.unbind(1))
        angle, length = torch.pi * angle, 0.1 + 0.25 * length
        width = self.options.scale[0] * (0.06 + 0.06 * width)
        dx, dy = self.x - x, self.y - y
        along = (dx * angle.cos() + dy * angle.sin()).clamp(-length, length)
        distance = ((dx - along * angle.cos()).square() + (dy - along * angle.sin()).square()).sqrt()
        return ((width - distance) * self.options.size + 0.5).clamp(0, 1)


def labelled(owner: Tensor, opacities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mask and boxes from who owns each pixel.

    Args:
        owner: which object's ink is seen (N, S, S), -1: none's.
        opacities: of each object by itself (M, N, S, S).
        labels: classes (N, M).
    """
    numbers = torch.arange(len(opacities)).view(-1, 1, 1, 1)
    seen = owner.unsqueeze(0) == numbers
    ink, visible = (opacities > INK).sum((2, 3)), seen.sum((2, 3))
    kept = (visible >= SMALLEST) & (visible >= VISIBLE * ink)
    mask = torch.zeros_like(owner)
    faint = (opacities > FAINT).any(0)
    mask[faint] = IGNORE
    for number in range(len(opacities)):
        known = torch.where(kept[number], labels[:, number] + 1, IGNORE).view(-1, 1, 1)
        mask = torch.where(seen[number], known, mask)
    boxes = torch.stack([tight_boxes(one) for one in seen], 1)
    present = kept.T
    order = torch.argsort((~present).to(torch.int8), dim=1, stable=True)  # objects first, then padding
    boxes = torch.where(present.unsqueeze(2), boxes, torch.zeros_like(boxes))
    found = torch.where(present, labels, -1)
    return {
        "mask": mask,
        "boxes": boxes.gather(1, order.unsqueeze(2).expand_as(boxes)),
        "box_label": found.gather(1, order),
    }


def tight_boxes(seen: Tensor) -> Tensor:
    """The smallest box (x1, y1, x2, y2) around the true pixels of each (N, H, W); 0 where there is none."""
    sides = []
    for axis in (1, 2):  # any over rows leaves columns: x first
        line = seen.any(dim=axis)
        length = line.shape[1]
        place = torch.arange(length, device=seen.device)
        first = torch.where(line, place, length).amin(dim=1)
        last = torch.where(line, place + 1, 0).amax(dim=1)
        sides.append((torch.minimum(first, last), last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 1).float()

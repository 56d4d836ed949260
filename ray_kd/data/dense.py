"""Images with masks or boxes: scaled, cropped, flipped and coloured together."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.boxes import area
from ray_kd.config.registry import VIEWS
from ray_kd.data.files import Size
from ray_kd.data.photo import ColourOptions, Range, colour_jitter
from ray_kd.data.sample_views import OBJECTS, Raw, SampleViews
from ray_kd.outputs import IGNORE


class DenseOptions(ColourOptions):
    """Options of joint views of images, masks and boxes."""

    size: Size | None = None
    """Height and width of the view; null: the dataset's size."""
    scale: Range = (0.5, 2.0)
    """The smallest and the largest factor of size."""
    relative: Literal["size", "image"] = "size"
    """What the factor is of: the scale at which the whole image just fits into the size (so that images of
    any size are treated alike), or the image as it lies on disk."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    visible: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Boxes of which a crop leaves a smaller share of the area are dropped."""
    smallest: Annotated[float, Field(ge=0)] = 2.0
    """Boxes with a shorter side than this, in pixels of the view, are dropped."""


@VIEWS.register(
    "dense", source="Ghiasi et al., CVPR 2021, arXiv 2012.07177 (scale jitter); Chen et al., arXiv 1706.05587"
)
class Dense(SampleViews):
    """Scale jitter, a random crop of fixed size, flip and colour jitter, of image and mask or boxes together.

    The image is resized by a random factor; a window of the view's size is laid at random so that it
    lies within the image, or the image within it. Where the window leaves the image it shows the mean
    colour, and masks are IGNORE there. Masks are resized to the nearest pixel. Boxes are clipped to the
    window, and dropped where too little of them is left; an image may end without any.

    Source: the scale jitter of Ghiasi et al., CVPR 2021, arXiv 2012.07177, and the random scale, crop and
    flip that Chen et al., arXiv 1706.05587, train segmentation with, there 0.5 to 2. Deviation: none is
    rejected for holding one class only.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "detection")
    Options = DenseOptions

    def show(self, raw: Raw, size: tuple[int, int]) -> Raw:
        size = self.options.size or size
        image = raw["image"].as_subclass(Tensor)
        new = self._new_size((image.shape[-2], image.shape[-1]), size)
        top, left = (_window(side, room) for side, room in zip(new, size, strict=True))
        flipped = bool(torch.rand(()) < self.options.flip)
        shown = dict(raw)
        shown["image"] = self._image(image, new, size, (top, left), flipped)
        if "mask" in raw:
            shown["mask"] = _mask(raw["mask"].as_subclass(Tensor), new, size, (top, left), flipped)
        if "boxes" in raw:
            factor = (new[0] / image.shape[-2], new[1] / image.shape[-1])
            shown.update(self._objects(raw, factor, size, (top, left), flipped))
        return shown

    def _new_size(self, given: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        low, high = self.options.scale
        factor = low + (high - low) * float(torch.rand(()))
        if self.options.relative == "size":
            factor *= min(size[0] / given[0], size[1] / given[1])
        return max(1, round(given[0] * factor)), max(1, round(given[1] * factor))

    def _image(
        self,
        image: Tensor,
        new: tuple[int, int],
        size: tuple[int, int],
        corner: tuple[int, int],
        flipped: bool,
    ) -> Any:
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as V

        fill = torch.tensor(self.fill(image)).to(image.dtype).view(-1, 1, 1)
        full = fill.repeat(1, *size)
        source, window = _overlap(new, size, corner)
        part = V.resize(image, list(new), antialias=True)[:, source[0], source[1]]
        for transform in colour_jitter(self.options):
            part = transform(tv_tensors.Image(part)).as_subclass(Tensor)
        full[:, window[0], window[1]] = part
        return tv_tensors.Image(full.flip(-1) if flipped else full)

    def _objects(
        self,
        raw: Raw,
        factor: tuple[float, float],
        size: tuple[int, int],
        corner: tuple[int, int],
        flipped: bool,
    ) -> Raw:
        """Boxes and what is known of each object, those dropped that the view hardly shows."""
        from torchvision import tv_tensors

        top, left = corner
        given = raw["boxes"].as_subclass(Tensor).float()
        boxes = given * torch.tensor([factor[1], factor[0]]).repeat(2) - torch.tensor([left, top]).repeat(2)
        before = area(boxes)
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        if flipped:
            boxes = torch.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], 1)
        share = area(boxes) / before.clamp_min(1e-6)
        shorter = (boxes[:, 2:] - boxes[:, :2]).min(dim=1).values
        kept = (share >= self.options.visible) & (shorter >= self.options.smallest) & (shorter > 0)
        found = {name: raw[name][kept] for name in OBJECTS if name in raw and name != "boxes"}
        if "area" in found:  # the share of an object that a crop leaves is taken to be that of its box
            found["area"] = found["area"] * (factor[0] * factor[1]) * share[kept]
        found["boxes"] = tv_tensors.BoundingBoxes(boxes[kept], format="XYXY", canvas_size=size)
        return found


def _window(side: int, room: int) -> int:
    """Where a window of ``room`` pixels begins on ``side``: within it, or around it where it is shorter."""
    low, high = min(0, side - room), max(0, side - room)
    return low + int(torch.randint(high - low + 1, ()))


def _overlap(
    new: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]
) -> tuple[list[slice], list[slice]]:
    """The rows and columns of the image that the window shows, and where in the window they lie."""
    source = [slice(max(0, c), min(n, c + s)) for n, s, c in zip(new, size, corner, strict=True)]
    window = [slice(part.start - c, part.stop - c) for part, c in zip(source, corner, strict=True)]
    return source, window


def _mask(
    mask: Tensor, new: tuple[int, int], size: tuple[int, int], corner: tuple[int, int], flipped: bool
) -> Any:
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as V

    full = torch.full(size, IGNORE, dtype=mask.dtype)
    source, window = _overlap(new, size, corner)
    resized = V.resize(mask[None], list(new), interpolation=InterpolationMode.NEAREST_EXACT)[0]
    full[window[0], window[1]] = resized[source[0], source[1]]
    return tv_tensors.Mask(full.flip(-1) if flipped else full)

"""Photographs for classification: torchvision's transforms, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ray_kd.config.options import ViewOptions
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import RawSplit
from ray_kd.data.files import Size
from ray_kd.data.image_files import stacked
from ray_kd.data.mixing import MixedViews, MixOptions, mixes, partners
from ray_kd.data.sample_views import Raw, SampleViews

Factor = Annotated[float, Field(gt=0)]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"expected the smaller number first, got {list(pair)}")
    return pair


Range = Annotated[tuple[Factor, Factor], AfterValidator(_rising)]
"""The smallest and the largest value, drawn uniformly between them."""


class ColourOptions(ViewOptions):
    """How far colours may be off."""

    brightness: Annotated[float, Field(ge=0)] = 0.0
    """Largest relative change of brightness, as torchvision's ColorJitter counts it."""
    contrast: Annotated[float, Field(ge=0)] = 0.0
    """Largest relative change of contrast."""
    saturation: Annotated[float, Field(ge=0)] = 0.0
    """Largest relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the hue, 0.5 half around the circle."""


class PhotoOptions(ColourOptions, MixOptions):
    """Options of photographs for classification."""

    size: Size | None = None
    """Height and width of the view; null: the dataset's size."""
    crop: Literal["random_resized", "center", "pad"] = "random_resized"
    """random_resized: a part of random area and ratio, resized; center: short side to 8/7 of the size, then
    the centre, as in evaluation; pad: the image over the size, padded, and a random crop."""
    scale: Range = (0.08, 1.0)
    """random_resized: the share of the image's area."""
    ratio: Range = (0.75, 1.3333333333333333)
    """random_resized: width by height."""
    padding: Annotated[int, Field(ge=0)] = 4
    """pad: black pixels added on each side."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    randaugment: Annotated[int, Field(ge=0)] = 0
    """RandAugment (Cubuk et al., NeurIPS 2020, arXiv 1909.13719): operations drawn for each view; 0: off."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """RandAugment: strength of the operations, of 0 to 30."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896), by the mean colour."""


@VIEWS.register("photo", source="Szegedy et al., CVPR 2015, arXiv 1409.4842; torchvision.transforms.v2")
class Photo(MixedViews, SampleViews):
    """Random resized crop and flip, then on request colour jitter, RandAugment, erasing, Mixup, CutMix.

    Source: Szegedy et al., CVPR 2015, arXiv 1409.4842: a part of 8 to 100 % of the area, 3/4 to 4/3 in
    ratio, resized to the size of the network; the standard recipe of ImageNet. torchvision's transforms v2
    in the order of its reference recipes, bilinear with antialiasing, on 8-bit images of any size.
    Deviation: a mixed image is rounded to 8 bits.
    """

    Options = PhotoOptions

    def show(self, raw: Raw, size: tuple[int, int]) -> Raw:
        from torchvision import tv_tensors

        image = raw["image"]
        for transform in self._transforms(image, self.options.size or size):
            image = transform(image)
        return {**raw, "image": tv_tensors.Image(image)}

    def sample(self, raw: Raw, split: RawSplit, index: int, view: int) -> Raw:
        shown = super().sample(raw, split, index, view)
        if not mixes(self.options):
            return shown
        other_index = int(partners(self.options, split.ids[index : index + 1].cpu(), view, len(split)))
        other = super().sample(split.raw(other_index), split, other_index, view)
        pair = stacked([found["image"].as_subclass(Tensor) for found in (shown, other)])
        own, partner = ({**found, "image": image} for found, image in zip((shown, other), pair, strict=True))
        row = self.mix(_row(own, int(split.ids[index])), _row(partner, int(split.ids[other_index])), view)
        return {**shown, "image": row["image"][0], "label": row["label"][0]}

    def _transforms(self, image: Tensor, size: tuple[int, int]) -> Sequence[Any]:
        from torchvision.transforms import v2

        options = self.options
        chosen: list[Any] = []
        if options.crop == "random_resized":
            chosen.append(v2.RandomResizedCrop(size, options.scale, options.ratio, antialias=True))
        else:
            padded = options.crop == "pad"
            chosen.append(v2.Resize(cover(image.shape[-2:], size, 1.0 if padded else 8 / 7), antialias=True))
            chosen.append(v2.RandomCrop(size, options.padding) if padded else v2.CenterCrop(size))
        chosen.append(v2.RandomHorizontalFlip(options.flip))
        chosen += colour_jitter(options)
        if options.randaugment:
            chosen.append(v2.RandAugment(options.randaugment, options.magnitude))
        if options.erasing:
            chosen.append(v2.RandomErasing(options.erasing, value=self.fill(image)))
        return chosen


def colour_jitter(options: ColourOptions) -> list[Any]:
    """torchvision's ColorJitter, where the options ask for one."""
    from torchvision.transforms import v2

    amounts = (options.brightness, options.contrast, options.saturation, options.hue)
    return [v2.ColorJitter(*amounts)] if any(amounts) else []


def cover(given: Sequence[int], size: tuple[int, int], margin: float) -> list[int]:
    """Height and width of an image scaled, its ratio kept, to just cover ``size`` times ``margin``."""
    wanted = [round(side * margin) for side in size]
    scale = max(want / have for want, have in zip(wanted, given, strict=True))
    return [max(round(have * scale), want) for want, have in zip(wanted, given, strict=True)]


def _row(raw: Raw, sample: int) -> dict[str, Tensor]:
    """A batch of this one sample."""
    return {
        "image": raw["image"][None],
        "label": torch.as_tensor(raw["label"])[None],
        "sample": torch.tensor([sample]),
    }

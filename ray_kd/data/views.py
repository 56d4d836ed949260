"""Views: augmentation as a pure function of (views.seed, sample, view), vectorised over the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import ViewOptions
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import Dataset, Split
from ray_kd.data.draws import uniform


class Views:
    """The base of registered view policies.

    Example:
        >>> import torch
        >>> from ray_kd.plugin import ViewOptions, Views, register_view, uniform
        >>> class ExampleOptions(ViewOptions):
        ...     pass
        >>> @register_view("example_flip")
        ... class Example(Views):
        ...     Options = ExampleOptions
        ...     def apply(self, images, samples, view):
        ...         turned = uniform(self.options.seed, "flip", samples, view, 1) < 0.5
        ...         return torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images)
        >>> Example(ExampleOptions(count=3)).of_epoch(4)
        1
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Names of the tasks whose labels stay true under it."""
    per_sample: ClassVar[bool] = False
    """Whether it acts on one raw sample of files at a time, before it has the dataset's size: it is then
    one of ``SampleViews``, and runs in the loader's worker processes."""
    Options: ClassVar[type[ViewOptions]] = ViewOptions
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(self, options: ViewOptions) -> None:
        self.options: Any = options

    @classmethod
    def check(cls, options: Any, task: str) -> None:
        """Whether these options go with a task that is one of ``tasks``."""

    def bind(self, dataset: Dataset, task: str) -> None:
        """Take what a dataset knows of all its samples: the number of classes, and mean and std."""
        self.check(self.options, task)
        self.classes, self.mean, self.std = dataset.classes_of(task), dataset.mean, dataset.std

    def of_epoch(self, epoch: int) -> int:
        """Which view every sample shows in an epoch (0-based): epoch mod count."""
        return epoch % self.options.count if self.options.count else epoch

    def __call__(self, batch: Mapping[str, Tensor], view: int, split: Split) -> dict[str, Tensor]:
        """A batch as its samples' view number ``view`` shows them.

        Here the image alone changes. A view that moves pixels under a mask or boxes, or mixes samples,
        overrides this; partners for mixing come from ``split``, the whole training set.
        """
        return {**batch, "image": self.apply(batch["image"], batch["sample"], view)}

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        """Images (B, C, H, W) of the samples (B,) as their view number ``view`` shows them."""
        raise TypeError(f"{type(self).__name__} implements neither apply nor a __call__ of its own")


class NoViewOptions(ViewOptions):
    """Options of untouched images."""


@VIEWS.register("none")
class NoViews(Views):
    """Images as they are."""

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    Options = NoViewOptions

    def of_epoch(self, epoch: int) -> int:
        return 0

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        return images


class ShiftOptions(ViewOptions):
    """Options of whole-pixel shifts."""

    pixels: Annotated[int, Field(ge=1)] = 1
    """Largest shift in each direction."""


@VIEWS.register("shift")
class Shift(Views):
    """Shift by whole pixels, the uncovered border filled with the image's edge."""

    Options = ShiftOptions

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        pixels = self.options.pixels
        height, width = images.shape[-2:]
        span = 2 * pixels + 1
        offset = (uniform(self.options.seed, "shift", samples, view, 2) * span).long() - pixels
        rows = (torch.arange(height, device=images.device) + offset[:, :1]).clamp_(0, height - 1)
        columns = (torch.arange(width, device=images.device) + offset[:, 1:]).clamp_(0, width - 1)
        index = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).view(len(images), 1, -1)
        flat = images.flatten(2)
        return flat.gather(2, index.expand(-1, flat.shape[1], -1)).view_as(images)


class AffineOptions(ViewOptions):
    """Options of small rotations, scalings and shifts."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest rotation to either side."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest relative change of size."""
    pixels: Annotated[float, Field(ge=0)] = 1.0
    """Largest shift in each direction; fractions of a pixel are interpolated."""


@VIEWS.register("affine")
class Affine(Views):
    """Rotate, scale and shift, bilinear, the uncovered border filled with the image's edge."""

    Options = AffineOptions

    def apply(self, images: Tensor, samples: Tensor, view: int) -> Tensor:
        options = self.options
        height, width = images.shape[-2:]
        draw = uniform(options.seed, "affine", samples, view, 4) * 2 - 1
        angle = draw[:, 0] * math.radians(options.degrees)
        size = 1 + draw[:, 1] * options.scale
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        theta = torch.stack(
            [
                torch.stack([cos, -sin, draw[:, 2] * (2 * options.pixels / width)], 1),
                torch.stack([sin, cos, draw[:, 3] * (2 * options.pixels / height)], 1),
            ],
            1,
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

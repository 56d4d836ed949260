"""Views of one sample at a time, for images of any size: torchvision's transforms under a keyed generator."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.base import RawSplit, Split
from ray_kd.data.views import Views
from ray_kd.random_streams import key

Raw = dict[str, Any]
"""A sample as ``RawSplit.raw`` gives it."""

OBJECTS = ("boxes", "box_label", "crowd", "area")
"""What a sample has of each object; rows are objects."""


@contextmanager
def drawing(*parts: int | str) -> Iterator[None]:
    """Run a block whose draws on the CPU come from the stream ``parts``, whichever library draws them.

    Transforms take no generator: torchvision's draw from PyTorch's global one, others from NumPy's or
    Python's. All three are seeded, and put back afterwards. Generators of accelerators are left alone.
    """
    number = key(*parts)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


class SampleViews(Views):
    """The base of views that act on a raw sample; a policy implements ``show``.

    A loader calls ``sample`` in whichever process reads the file: the view is a function of the seed, the
    sample's id and the view alone, so the number of processes changes nothing.
    """

    per_sample: ClassVar[bool] = True

    @abstractmethod
    def show(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """One view of a raw sample, drawn from the global generators; the image uint8 or float in [0, 1].

        Args:
            raw: as ``RawSplit.raw`` gives it; not to be changed in place.
            size: height and width to bring it to.
        """

    def fill(self, image: Tensor) -> list[float]:
        """The mean colour, or black where it is not known, in the numbers of an image (C, H, W)."""
        mean = self.mean or (0.0,) * len(image)
        return list(mean) if image.is_floating_point() else [float(round(255 * value)) for value in mean]

    def sample(self, raw: Raw, split: RawSplit, index: int, view: int) -> Raw:
        """View number ``view`` of the raw sample at ``index`` of a split, for ``split.finish``."""
        return self._shown(raw, int(split.ids[index]), view, split.size)

    def _shown(self, raw: Raw, sample: int, view: int, size: tuple[int, int]) -> Raw:
        with drawing(self.options.seed, self.name, sample, view):
            return self.show(raw, size)

    def __call__(self, batch: Mapping[str, Tensor], view: int, split: Split) -> dict[str, Tensor]:
        """A batch of a split that lies in memory, sample by sample; for images of 8 bits the same pixels."""
        size = (batch["image"].shape[-2], batch["image"].shape[-1])
        rows = []
        for index, sample in enumerate(batch["sample"].tolist()):
            row = {name: value[index].cpu() for name, value in batch.items()}
            rows.append(self._row(self._shown(self._raw(row), sample, view, size), row))
        return {name: torch.stack([row[name] for row in rows]).to(batch[name].device) for name in rows[0]}

    def _raw(self, row: dict[str, Tensor]) -> Raw:
        """A row of a batch as a raw sample: 8 bits, no padding among the boxes."""
        from torchvision import tv_tensors

        mean, std = self._scale()
        image = (row["image"] * std + mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)
        raw: Raw = {**row, "image": tv_tensors.Image(image)}
        if "mask" in row:
            raw["mask"] = tv_tensors.Mask(row["mask"])
        if "boxes" in row:
            known = row["box_label"] >= 0
            raw.update({name: row[name][known] for name in OBJECTS if name in row})
            size = (image.shape[-2], image.shape[-1])
            raw["boxes"] = tv_tensors.BoundingBoxes(raw["boxes"], format="XYXY", canvas_size=size)
        return raw

    def _row(self, shown: Raw, row: dict[str, Tensor]) -> dict[str, Tensor]:
        """A viewed sample as a row again, as ``row`` was."""
        mean, std = self._scale()
        image = shown["image"].as_subclass(Tensor)
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        found = {**row, "image": (image - mean) / std}
        if "mask" in row:
            found["mask"] = shown["mask"].as_subclass(Tensor)
        for name in OBJECTS:
            if name in row:
                filled = torch.full_like(row[name], -1 if name == "box_label" else 0)
                filled[: len(shown[name])] = shown[name].as_subclass(Tensor)
                found[name] = filled
        return found

    def _scale(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.std is None:
            raise UserError(
                f"views {self.name}: the dataset does not say what its images were normalised with (mean, "
                "std), which turns them back into pixels; expected a dataset of files, or vectorised views "
                "such as pad_crop."
            )
        return torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)

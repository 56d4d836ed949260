"""Datasets of image files: read one by one, viewed, and finished to one size."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.data.base import Dataset, RawSplit
from ray_kd.data.image_files import Span, stacked
from ray_kd.data.layout import RootOptions, warn_of_few
from ray_kd.data.splits import hold_out
from ray_kd.outputs import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Side = Annotated[int, Field(ge=1)]
Size = Annotated[
    tuple[Side, Side], BeforeValidator(lambda size: (size, size) if isinstance(size, int) else size)
]
"""Height and width; one number is a square."""


class Files:
    """Paths of many files below a root, compact: a million of them go to a worker process as one block."""

    def __init__(self, root: str, paths: Iterable[str]) -> None:
        self.root = root
        self._paths = np.array([os.fsencode(os.path.relpath(path, root)) for path in paths], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(bytes(self._paths[index])))

    @classmethod
    def below(cls, root: str, names: Iterable[str]) -> Files:
        """Files by their paths below the root."""
        return cls(root, (os.path.join(root, name) for name in names))

    def names(self) -> list[str]:
        """All paths below the root."""
        return [os.fsdecode(bytes(path)) for path in self._paths]


class Source(Protocol):
    """Everything that one list of files holds."""

    def __len__(self) -> int: ...

    def raw(self, index: int) -> dict[str, Any]:
        """As ``RawSplit.raw``; of detection also crowd (n,) bool and area (n,)."""
        ...

    def paths(self, index: int) -> tuple[str, ...]:
        """The files that a sample is read from, its image first."""
        ...


@dataclass(frozen=True)
class Form:
    """What finished samples look like.

    Attributes:
        mean, std: of channels scaled to [0, 1].
        fit: how an image of another size gets there: ``crop`` scales its short side to 8/7 of the size and
            takes the centre, as ImageNet is evaluated (256 and 224); ``letterbox`` scales it as a whole
            to fit and fills up on the right and below, with the mean colour, ignored in masks.
        objects: boxes that a row has room for.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fit: Literal["crop", "letterbox"] = "crop"
    objects: int = 0

    def fit_size(self, sample: dict[str, Any]) -> dict[str, Any]:
        """See ``RawSplit.fit``."""
        image = sample["image"].as_subclass(Tensor)
        if image.shape[-2:] == self.size:
            return sample
        rest = {name: value for name, value in sample.items() if name != "image"}
        image, rest = self._crop(image, rest) if self.fit == "crop" else self._letterbox(image, rest)
        return {"image": image, **rest}

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        """See ``RawSplit.finish``."""
        rest = dict(sample)
        row = {"image": rest.pop("image").as_subclass(Tensor).contiguous()}
        if "mask" in rest:
            row["mask"] = rest.pop("mask").as_subclass(Tensor).contiguous()
        if "boxes" in rest:
            row.update(self._padded(rest))
        row.update({name: torch.as_tensor(value) for name, value in rest.items()})
        return row

    def ready(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``RawSplit.ready``."""
        image = rows["image"]
        mean = torch.tensor(self.mean, device=image.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(-1, 1, 1)
        scaled = image.float().div_(255) if image.dtype == torch.uint8 else image.float()
        found = {**rows, "image": (scaled - mean) / std}
        if "mask" in rows:
            found["mask"] = rows["mask"].long()
        return found

    def _crop(self, image: Tensor, rest: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        from torchvision.transforms.v2 import functional as V

        height, width = image.shape[-2:]
        scale = max(
            round(side * 8 / 7) / given for side, given in zip(self.size, (height, width), strict=True)
        )
        new = [max(int(height * scale + 1e-6), self.size[0]), max(int(width * scale + 1e-6), self.size[1])]
        return V.center_crop(V.resize(image, new, antialias=True), list(self.size)), rest

    def _letterbox(self, image: Tensor, rest: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as V

        height, width = image.shape[-2:]
        scale = min(self.size[0] / height, self.size[1] / width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
        border = (0, self.size[1] - new[1], 0, self.size[0] - new[0])
        image = V.resize(image, list(new), antialias=True)
        colour = torch.tensor(self.mean) * (255 if image.dtype == torch.uint8 else 1)
        colour = (colour.round() if image.dtype == torch.uint8 else colour).to(image.dtype)
        full = colour.view(-1, 1, 1).expand(-1, *self.size).clone()
        full[:, : new[0], : new[1]] = image
        if "mask" in rest:
            mask = rest["mask"].as_subclass(Tensor)[None]
            mask = V.resize(mask, list(new), interpolation=InterpolationMode.NEAREST_EXACT)[0]
            rest["mask"] = F.pad(mask, border, value=IGNORE)
        if "boxes" in rest:
            factor = torch.tensor([new[1] / width, new[0] / height])
            rest["boxes"] = rest["boxes"].as_subclass(Tensor) * factor.repeat(2)
            if "area" in rest:
                rest["area"] = rest["area"] * factor.prod()
        return full, rest

    def _padded(self, rest: dict[str, Any]) -> dict[str, Tensor]:
        """Boxes and what is known of each, filled up to ``objects`` rows; the largest of more."""
        boxes = rest.pop("boxes").as_subclass(Tensor).float()
        known = {name: rest.pop(name) for name in ("box_label", "crowd", "area") if name in rest}
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = torch.nonzero((sides > 0).all(1))[:, 0]
        if len(kept) > self.objects:
            largest = sides[kept].prod(1).argsort(descending=True, stable=True)[: self.objects]
            kept = kept[largest.sort().values]
        empty = {"box_label": -1, "crowd": False, "area": 0.0}
        row = {"boxes": boxes.new_zeros(self.objects, 4)}
        row["boxes"][: len(kept)] = boxes[kept]
        for name, values in known.items():
            row[name] = torch.full((self.objects,), empty[name], dtype=values.dtype)
            row[name][: len(kept)] = values[kept]
        return row


class FileSplit:
    """Some of a source's samples (a ``RawSplit``).

    Args:
        chosen: which of the source's samples (N,).
        first: id of the source's sample 0; ids are unique over the splits of a dataset.
        training: boxes that stand for a crowd, which no detector is trained on, are left out; elsewhere
            they come with ``crowd`` and ``area``, which COCO's evaluation reads.
    """

    def __init__(
        self, source: Source, chosen: Tensor, first: int, form: Form, training: bool = False
    ) -> None:
        self.source, self.chosen, self.form, self.training = source, chosen, form, training
        self.ids, self.size = chosen + first, form.size
        self.fit, self.finish, self.ready = form.fit_size, form.finish, form.ready

    def __len__(self) -> int:
        return len(self.chosen)

    def paths(self, index: int) -> tuple[str, ...]:
        """The files that a sample is read from, its image first."""
        return self.source.paths(int(self.chosen[index]))

    def classes_in(self, index: int) -> list[int]:
        """The classes of a sample, as far as they are known without its image."""
        known = getattr(self.source, "classes_in", None)
        return [] if known is None else known(int(self.chosen[index]))

    def raw(self, index: int) -> dict[str, Any]:
        sample = self.source.raw(int(self.chosen[index]))
        if self.training and "crowd" in sample:
            from torchvision import tv_tensors

            kept, boxes = ~sample["crowd"], sample["boxes"]
            sample = {name: value for name, value in sample.items() if name not in ("crowd", "area")}
            sample["boxes"] = tv_tensors.wrap(boxes.as_subclass(Tensor)[kept], like=boxes)
            sample["box_label"] = sample["box_label"][kept]
        return sample

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return gather_raw(self, index)


def gather_raw(split: RawSplit, index: Tensor) -> dict[str, Tensor]:
    """The samples at ``index`` (B,) of a split of files, as ``Split.gather`` gives them."""
    rows = stack([split.finish(split.fit(split.raw(i))) for i in index.tolist()])
    return {**split.ready(rows), "sample": split.ids[index.cpu()]}


def stack(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of equal shapes as columns."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: stacked(values) if name == "image" else torch.stack(values) for name, values in columns.items()
    }


class FileOptions(RootOptions):
    """Options of every dataset of image files."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Taken off each channel, scaled to [0, 1]; default: ImageNet's, as torchvision's weights want it."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What each channel is divided by then."""
    range: Span | None = None
    """Black and white of images of more than 8 bits; values beyond them are cut off. Null: 0 and 65535 for 16
    bits, while 32-bit integers and floats, whose range nothing says, are refused."""


class FileDataset(Dataset):
    """The base of datasets of image files."""

    tree: ClassVar[str]
    """The files expected below ``root``."""

    def fill(
        self,
        train: Source,
        test: Source,
        options: Any,
        fit: Literal["crop", "letterbox"] = "letterbox",
        classes: np.ndarray | None = None,
        validation: Source | None = None,
    ) -> None:
        """Make the three splits."""
        most = max(getattr(source, "most", 0) for source in (train, test))
        form = Form(options.size, options.mean, options.std, fit, most)
        known = np.zeros(len(train)) if classes is None else classes
        share = options.validation if validation is None else 0.0
        chosen, held = hold_out(known, share, options.labels, options.seed, self.name, options.label_seed)
        self.train = FileSplit(train, torch.from_numpy(chosen), 0, form, training=True)
        self.test = FileSplit(test, torch.arange(len(test)), len(train), form)
        if validation is not None:
            self.validation = FileSplit(
                validation, torch.arange(len(validation)), len(train) + len(test), form
            )
        elif share:
            self.notes = warn_of_few(self.name, options, len(held), len(train))
            self.validation = FileSplit(train, torch.from_numpy(held), 0, form)
        else:
            self.validation = self.test
        self.channels, self.mean, self.std = 3, form.mean, form.std

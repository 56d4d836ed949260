"""Checks of samples: what is unambiguous is converted, everything else is an error that names the sample.

Every batch of every dataset (a user's own, a registered one, one of files) is checked where it is made, on
the CPU. A dataset that lies in memory is checked once, as a whole, when it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset, RawSplit, Split, TensorSplit, is_raw
from ray_kd.data.files import gather_raw
from ray_kd.data.image_files import OddBoxes, OddFile, OddMask
from ray_kd.data.user_samples import to_float
from ray_kd.outputs import IGNORE

SPLITS = ("train", "validation", "test")
TASKS = {"label": "classification", "mask": "segmentation", "box_label": "detection"}
"""Which task each column of classes is for."""
COLUMNS = {task: column for column, task in TASKS.items()}
"""Which column holds the classes of each task."""


class OddLabel(OddFile):
    """A label that is no class."""

    what = "a label that is no class"


ERRORS: dict[str, type[UserError]] = {
    "label": OddLabel,
    "mask": OddMask,
    "boxes": OddBoxes,
    "box_label": OddBoxes,
}
"""What is raised for a mistake in each column."""


def check_dataset(dataset: Dataset, whose: str, remedy: str) -> Dataset:
    """Check every batch of a dataset from now on; its splits are wrapped in place.

    Args:
        remedy: what to do where there are more classes than it says.

    Raises:
        UserError: a split without samples, or one in memory with a sample that is not right.
    """
    done: dict[int, Split] = {}
    for name in SPLITS:
        split: Split = getattr(dataset, name)
        if id(split) not in done:
            if not len(split):
                raise UserError(f"{whose}, {name}: expected at least one sample, got none.")
            checks = checks_of(dataset, f"{whose}, {name}", remedy)
            whole = checks.whole(split) if isinstance(split, TensorSplit) else None
            done[id(split)] = whole or CheckedSplit(split, checks)
        setattr(dataset, name, done[id(split)])
    return dataset


def checks_of(dataset: Dataset, where: str, remedy: str = "") -> SampleChecks:
    """The checks of a dataset's samples, by its own classes, channels and mean."""
    classes = {column: dataset.classes_of(task) for column, task in TASKS.items()}
    return SampleChecks(where, classes, dataset.channels, dataset.mean is not None, remedy)


@dataclass(frozen=True)
class SampleChecks:
    """What every sample of a split has to be like.

    Attributes:
        classes: how many there are, by column.
        normalised: the dataset has a mean and a std, so its images are normalised floats.
        remedy: what to do where there are more classes than it says.
    """

    where: str
    classes: Mapping[str, int]
    channels: int
    normalised: bool = False
    remedy: str = ""

    def batch(self, columns: Mapping[str, Any], numbers: Tensor | None = None) -> dict[str, Tensor]:
        """A batch as ``Split.gather`` has to give it.

        Args:
            numbers: which samples of the split these are, for messages.
        """
        found = dict(columns)
        if not isinstance(found.get("image"), Tensor):
            raise self._wrong(
                f"expected a tensor 'image', got {_kind(found.get('image'))}", "", None, numbers
            )
        if not set(TASKS) & found.keys():
            raise self._wrong(f"expected label, mask or box_label, got {', '.join(found)}", "", None, numbers)
        found["image"] = self._image(found["image"], numbers)
        if "label" in found:
            found["label"] = self.label(found["label"], numbers)
        if "mask" in found:
            found["mask"] = self._mask(found["mask"], found["image"], numbers).long()
        if "box_label" in found or "boxes" in found:
            found.update(self._objects(found, numbers))
        return found

    def raw(self, sample: Mapping[str, Any], number: Tensor) -> dict[str, Tensor]:
        """A sample of files as it lies on disk, its label a class; as tensors."""
        row = {name: torch.as_tensor(value).as_subclass(Tensor) for name, value in sample.items()}
        if row["image"].dim() != 3:
            shape = tuple(row["image"].shape)
            raise self._wrong(f"expected an image (channels, height, width), got {shape}", "", None, number)
        if "label" in row:
            row["label"] = self.label(row["label"][None], number)[0]
        return self.row(row, number)

    def row(self, row: dict[str, Tensor], number: Tensor | None = None) -> dict[str, Tensor]:
        """A finished row of a file, perhaps viewed: bytes stay bytes, a label may be shares of classes."""
        if row["image"].is_floating_point():
            self._finite(row["image"][None], number)
        if "label" in row and not row["label"].is_floating_point():
            self._in_range(row["label"].view(1), "label", number)
        if "mask" in row:
            self._mask(row["mask"][None], row["image"][None], number)
        if "box_label" in row:
            self._objects({name: value[None] for name, value in row.items()}, number)
        return row

    def whole(self, split: TensorSplit) -> TensorSplit:
        """A split in memory, all of it."""
        found = self.batch(split.columns)
        if all(found[name] is value for name, value in split.columns.items()):
            return split
        rest = {name: value for name, value in found.items() if name not in ("image", "label")}
        return TensorSplit(found["image"], found.get("label"), split.ids, **rest)

    def _image(self, image: Tensor, numbers: Tensor | None) -> Tensor:
        if image.dim() == 3 and self.channels == 1:
            image = image.unsqueeze(1)
        if image.dim() != 4 or image.shape[1] != self.channels:
            last = image.dim() == 4 and image.shape[3] == self.channels
            hint = "Channels come first: image.permute(2, 0, 1) of each." if last else ""
            shape = "x".join(map(str, image.shape[1:]))
            text = f"expected images of {self.channels} channels x height x width, got {shape}"
            raise self._wrong(text, hint, None, numbers)
        if image.dtype != torch.float32:
            if self.normalised and not image.is_floating_point():
                text = f"the dataset has a mean and a std, so images are normalised floats; got {image.dtype}"
                raise self._wrong(text, "Give (image / 255 - mean) / std as float32.", None, numbers)
            image = to_float(image, self.where)
        self._finite(image, numbers)
        return image

    def _finite(self, values: Tensor, numbers: Tensor | None) -> None:
        if math.isfinite(float(values.sum())):  # one pass; a value that is not finite survives every sum
            return
        fine = torch.isfinite(values.flatten(1)).all(1)
        if not fine.all():
            row = int((~fine).nonzero()[0])
            kind = "NaN" if values[row].isnan().any() else "infinite"
            raise self._wrong(f"a pixel is {kind}", "Correct it, or leave this sample out.", row, numbers)

    def label(self, label: Any, numbers: Tensor | None = None) -> Tensor:
        """Classes (N,) of any kind as int64, one-hot ones too."""
        if isinstance(label, Tensor) and label.dim() == 2 and label.shape[1] == 1:
            label = label[:, 0]
        if not isinstance(label, Tensor) or label.dim() not in (1, 2):
            shape = f" of shape {tuple(label.shape[1:])} each" if isinstance(label, Tensor) else ""
            raise self._wrong(f"expected one class a sample, got {_kind(label)}{shape}", "", None, numbers)
        if label.dim() == 2:
            one_hot = ((label == 0) | (label == 1)).all(1) & (label.sum(1) == 1)
            if not one_hot.all():
                row = int((~one_hot).nonzero()[0])
                hint = "Shares of classes come from views that mix samples (photo: mixup, cutmix)."
                shown = f"{label[row][:6].tolist()}{' ...' if label.shape[1] > 6 else ''}"
                raise self._wrong(f"label: expected one class (or one-hot), got {shown}", hint, row, numbers)
            if label.shape[1] > self.classes["label"]:
                text = f"label: one-hot of {label.shape[1]} classes, where there are {self.classes['label']}"
                raise self._wrong(text, self.remedy, None, numbers)
            return label.int().argmax(1)
        label = self.whole_numbers(label, "label", numbers)
        self._in_range(label, "label", numbers)
        return label

    def whole_numbers(self, values: Tensor, column: str, numbers: Tensor | None = None) -> Tensor:
        """Classes as int64."""
        if values.is_floating_point():
            broken = (values != values.round()) | ~values.isfinite()
            if broken.any():
                row = int(broken.nonzero()[0][0])
                text = f"{column}: expected the number of a class, got {float(values[broken][0]):g}"
                raise self._wrong(text, "", row, numbers)
        elif values.is_complex():
            raise self._wrong(
                f"{column}: expected the number of a class, got {values.dtype}", "", None, numbers
            )
        return values if values.dtype == torch.int64 else values.long()

    def _in_range(self, label: Tensor, column: str, numbers: Tensor | None) -> None:
        count = self.classes[column]
        bad = (label < 0) | (label >= count)
        if not bad.any():
            return
        row = int(bad.nonzero()[0])
        value = int(label[row])
        hint = self.remedy
        if value in (-1, IGNORE):
            hint = f"{value} often stands for 'not labelled': leave such samples out."
        elif value == count and len(label) > 1 and int(label.min()) >= 1:
            hint = f"Classes seem to begin at 1: subtract 1. Or: {self.remedy}"
        raise self._wrong(
            f"{column}: expected a class from 0 to {count - 1}, got {value}", hint, row, numbers
        )

    def _mask(self, mask: Any, image: Tensor, numbers: Tensor | None) -> Tensor:
        if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[1] == 1:
            mask = mask[:, 0]
        if not isinstance(mask, Tensor) or mask.dim() != 3 or mask.shape[1:] != image.shape[2:]:
            got = tuple(mask.shape[1:]) if isinstance(mask, Tensor) else _kind(mask)
            text = f"mask: expected one class for each of {image.shape[2]}x{image.shape[3]} pixels, got {got}"
            raise self._wrong(text, "", None, numbers)
        if mask.dtype != torch.uint8:
            mask = self.whole_numbers(mask, "mask", numbers)
        count = self.classes["mask"]
        bad = mask >= count
        if mask.dtype != torch.uint8:
            bad |= mask < 0
        bad &= mask != IGNORE
        if bad.any():
            row = int(bad.flatten(1).any(1).nonzero()[0])
            values = mask[row][bad[row]].unique().tolist()
            shown = f"{', '.join(map(str, values[:6]))}{' ...' if len(values) > 6 else ''}"
            text = f"mask: expected classes from 0 to {count - 1}, or {IGNORE} (not labelled); got {shown}"
            raise self._wrong(text, f"Does the mask hold colours or other codes? {self.remedy}", row, numbers)
        return mask

    def _objects(self, columns: Mapping[str, Any], numbers: Tensor | None) -> dict[str, Tensor]:
        boxes, label, image = columns.get("boxes"), columns.get("box_label"), columns["image"]
        fit = isinstance(boxes, Tensor) and boxes.dim() == 3 and boxes.shape[2] == 4
        if not fit or not isinstance(label, Tensor) or label.shape != boxes.shape[:2]:  # type: ignore[union-attr]
            shapes = [
                tuple(part.shape[1:]) if isinstance(part, Tensor) else _kind(part) for part in (boxes, label)
            ]
            text = f"expected boxes (M, 4) and box_label (M,) of each sample, got {shapes[0]} and {shapes[1]}"
            raise self._wrong(text, "", None, numbers)
        label = self.whole_numbers(label, "box_label", numbers)
        count, known = self.classes["box_label"], label != -1
        found = {"boxes": boxes.float(), "box_label": label}  # type: ignore[union-attr]
        height, width = image.shape[2:]
        low, high = found["boxes"][..., :2], found["boxes"][..., 2:]
        limit = torch.tensor([width, height], device=label.device)
        inside = (high.minimum(limit) - low.clamp_min(0)).clamp_min(0).prod(-1)
        finite = found["boxes"].isfinite().all(-1)
        turned = ~(high > low).all(-1)
        for bad, expected, hint in (
            (
                (label < -1) | (label >= count),
                f"box_label: expected a class from 0 to {count - 1}, or -1 where there is no box",
                self.remedy,
            ),
            (~finite, "boxes: expected finite numbers", ""),
            (
                turned,
                "boxes: expected (x1, y1, x2, y2) with x1 < x2 and y1 < y2",
                "Boxes given as (x, y, width, height) are (x, y, x + width, y + height).",
            ),
            (
                inside < 0.5 * (high - low).prod(-1),
                f"boxes: expected pixels of an image of {height}x{width}",
                "Was it resized after the boxes were drawn, or are they shares of its sides?",
            ),
        ):
            bad = bad & known
            if bad.any():
                row, box = (int(number) for number in bad.nonzero()[0])
                values = [round(value, 2) for value in found["boxes"][row, box].tolist()]
                got = f"{int(label[row, box])}" if "box_label" in expected else f"{values}"
                raise self._wrong(f"{expected}; got {got} (box {box})", hint, row, numbers)
        return found

    def _wrong(self, text: str, hint: str, row: int | None, numbers: Tensor | None) -> UserError:
        sample = ""
        if row is not None:
            sample = f", sample {row if numbers is None else int(numbers.flatten()[row])}"
        kind = ERRORS.get(text.partition(":")[0], UserError)
        return kind(f"{self.where}{sample}: {text}.{' ' if hint else ''}{hint}")


class CheckedSplit:
    """A split whose batches, or rows read from files, are checked as they are made."""

    def __init__(self, split: Split, checks: SampleChecks) -> None:
        self.split, self.checks = split, checks
        self.ids = split.ids
        self._at: int | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("split", "checks"):  # while it is being unpickled
            raise AttributeError(name)
        found = getattr(self.split, name)
        return partial(self._noted, found) if name == "raw" else found

    def _noted(self, raw: Callable[[int], dict[str, Any]], index: int) -> dict[str, Any]:
        """``raw``; the number of the first sample read for a row is kept for messages about the row."""
        self._at = index if self._at is None else self._at
        return raw(index)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        if is_raw(self.split):
            return gather_raw(cast(RawSplit, self), index)
        return self.checks.batch(self.split.gather(index), index)

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        """See ``RawSplit``."""
        number, self._at = self._at, None
        row = cast(RawSplit, self.split).finish(sample)
        return self.checks.row(row, None if number is None else torch.tensor([number]))


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__

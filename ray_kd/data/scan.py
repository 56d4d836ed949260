"""A whole dataset read once: what in it would stop a run, and what one should know of it before."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset, Split, is_raw
from ray_kd.data.dense_files import BEYOND
from ray_kd.data.loading import NOT_HANDED_ON, begun, end_processes, in_processes
from ray_kd.data.look import SPLITS, Watched, look_for
from ray_kd.data.pictures import OddBoxes, OddFile, OddMask, remarks
from ray_kd.outputs import IGNORE

AT_ONCE = 16
"""Samples that a process is asked for at a time."""

NEEDED = {"segmentation": "mask", "detection": "boxes", "classification": "label"}
"""What of a sample each task needs."""

Part = tuple[str, int, int]
"""Some samples: a split's name, the first of them, and the one after the last."""


@dataclass(frozen=True)
class Looked:
    """What was found in one sample.

    Attributes:
        split: the split's name.
        where: the file it is read from, or its place in the split.
        problem: what would stop a run, and the row it is counted in; None: nothing.
        remarks: what one should know.
        size: height and width of the image as it is read.
        content: a hash of the image's pixels.
        classes: how many objects, pixels or labels of each class.
    """

    split: str
    where: str
    problem: tuple[str, str] | None
    remarks: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    content: bytes = b""
    classes: tuple[tuple[int, int], ...] = ()


class Looking(TorchDataset):
    """What looks at samples, here or in a process.

    Args:
        splits: by name.
        classes: how many classes the task has.
        task: its name, by which is known what of a sample it needs; None: whatever the sample has.
    """

    def __init__(self, splits: dict[str, Split], classes: int, task: str | None = None) -> None:
        self.splits, self.classes, self.task = splits, classes, task

    def __getitem__(self, part: Part) -> list[Looked]:
        name, first, end = part
        return [self.look(name, index) for index in range(first, end)]

    def look(self, name: str, index: int) -> Looked:
        """One sample; whatever reading it raises is what would stop a run."""
        split: Any = self.splits[name]
        paths = getattr(split, "paths", None)
        where = f"sample {index} of {name}"
        try:
            file = paths(index)[0] if paths is not None else None
        except AttributeError:  # a source of somebody else's, which has no files to name
            file = None
        try:
            sample = split.raw(index) if is_raw(split) else _row(split, index)
            image = torch.as_tensor(sample["image"]).as_subclass(Tensor)
            classes = check(sample, image, self.classes, self.task)
            known = [*(remarks(file) if file is not None else ()), *_doubts(sample, classes)]
        except Exception as error:  # of a file, or of anybody's dataset
            what, message = _problem(error)
            return Looked(name, file or where, (what, message.removeprefix(f"{name}, sample {index}: ")))
        content = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16)
        content.update(repr((image.dtype, tuple(image.shape))).encode())
        size = image.shape[-2], image.shape[-1]
        return Looked(name, file or where, None, tuple(known), size, content.digest(), tuple(classes.items()))


def parts(dataset: Dataset) -> dict[str, Split]:
    """The splits of a dataset by name, one that is another as well under both names.

    What is no file is looked at as training looks at it.
    """
    found: dict[str, Split] = {}
    for name in SPLITS:
        split = getattr(dataset, name)
        same = next((known for known, other in found.items() if other is split), None)
        if same is not None:
            found[f"{same} = {name}"] = found.pop(same)
        else:
            found[name] = split
    return {
        name: split if is_raw(split) else Watched(split, look_for(dataset, name))
        for name, split in found.items()
    }


def scan(
    splits: dict[str, Split], classes: int, processes: int, task: str | None = None
) -> Generator[list[Looked]]:
    """What is found in every sample of every split, some at a time and in order.

    Args:
        processes: how many read; 0: this one. They end when the iterator is closed.

    Raises:
        UserError: a process died.
    """
    looking = Looking(splits, classes, task)
    plan = [
        (name, first, min(first + AT_ONCE, len(split)))
        for name, split in splits.items()
        for first in range(0, len(split), AT_ONCE)
    ]
    if not processes:
        yield from (looking[part] for part in plan)
        return
    loader, done = in_processes(looking, plan, processes), 0
    try:
        every = begun(loader)
    except NOT_HANDED_ON:
        end_processes(loader)
        yield from (looking[part] for part in plan)
        return
    try:
        for found in every:
            yield found
            done += 1
    except RuntimeError as error:
        name, first, _ = plan[done]
        raise UserError(
            f"a process that read from sample {first} of {name} on died ({str(error).splitlines()[0]}): too "
            "little memory, or a file that breaks its decoder."
        ) from error
    finally:
        end_processes(loader)


def check(sample: dict[str, Any], image: Tensor, classes: int, task: str | None = None) -> Counter[int]:
    """How many labels, objects or pixels of each class a sample has, of what its task needs.

    Raises:
        OddFile: values that training cannot mean what it says with.
    """
    if image.dim() != 3:
        raise OddFile(f"expected an image (channels, height, width), got the shape {tuple(image.shape)}.")
    if image.is_floating_point() and not image.isfinite().all():
        raise OddFile("the image holds values that are no numbers (NaN, or infinite).")
    needed = NEEDED.get(task or "") or next((name for name in NEEDED.values() if name in sample), None)
    if needed is None:
        return Counter()
    if needed not in sample:
        raise OddFile(f"expected {needed} for the task {task}, got only {', '.join(sample)}.")
    if needed == "mask":
        return _mask(torch.as_tensor(sample["mask"]).as_subclass(Tensor), image, classes)
    return _boxes(sample, image, classes) if needed == "boxes" else _label(sample["label"], classes)


def _row(split: Split, index: int) -> dict[str, Any]:
    """A sample of a split that gives batches."""
    return {name: value[0].cpu() for name, value in split.gather(torch.tensor([index])).items()}


def _doubts(sample: dict[str, Any], classes: Counter[int]) -> list[str]:
    """What may be meant, and more often is a mistake: a mask saved in black and white, say."""
    if "mask" in sample and set(classes) == {0} and bool((torch.as_tensor(sample["mask"]) == IGNORE).any()):
        return ["a mask of class 0 and ignored alone"]
    return []


def _label(label: Any, classes: int) -> Counter[int]:
    value = torch.as_tensor(label)
    if value.dim() or value.is_floating_point() or not 0 <= int(value) < classes:
        shown = value.tolist() if value.numel() < 12 else f"an array {tuple(value.shape)}"
        raise OddLabel(f"the label is {shown}; expected one whole number from 0 to {classes - 1}.")
    return Counter([int(value)])


def _mask(mask: Tensor, image: Tensor, classes: int) -> Counter[int]:
    if mask.shape != image.shape[-2:]:
        raise OddMask(f"the mask is {tuple(mask.shape)} pixels large, its image {tuple(image.shape[-2:])}.")
    values, counts = mask.unique(return_counts=True)
    held = dict(zip(values.tolist(), counts.tolist(), strict=True))
    odd = [value for value in held if value != IGNORE and not 0 <= value < classes]
    if odd:
        raise OddMask(
            f"the mask holds {odd[:8]}; expected classes 0 to {classes - 1}, and {IGNORE} for what is "
            "ignored."
        )
    return Counter({value: count for value, count in held.items() if value != IGNORE})


def _boxes(sample: dict[str, Any], image: Tensor, classes: int) -> Counter[int]:
    boxes, labels = torch.as_tensor(sample["boxes"]).as_subclass(Tensor), torch.as_tensor(sample["box_label"])
    boxes, labels = boxes[labels >= 0].double(), labels[labels >= 0]
    sides = torch.tensor([image.shape[-1], image.shape[-2]] * 2).double()
    room = (sides * BEYOND[1]).clamp_min(BEYOND[0])
    wrong = ~boxes.isfinite().all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
    wrong |= (boxes < -room).any(1) | (boxes > sides + room).any(1)
    if wrong.any():
        one = [round(side, 2) for side in boxes[wrong][0].tolist()]
        raise OddBoxes(
            f"the box x1 y1 x2 y2 = {one} does not fit its image of {image.shape[-1]} x {image.shape[-2]} "
            "pixels."
        )
    if (labels >= classes).any():
        raise OddBoxes(f"an object's class is {int(labels.max())}; expected 0 to {classes - 1}.")
    return Counter(labels.tolist())


class OddLabel(OddFile):
    """A label that is no class."""

    what = "a label that is no class"


def _problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, OddFile):
        return error.what, str(error)
    if isinstance(error, UserError):
        return "a sample that is refused", str(error)
    return "a sample that raises an error", f"{type(error).__name__}: {error}"


@dataclass
class Row:
    """A row of what was found: how often, and an example."""

    stops: bool
    what: str
    count: int
    example: str


class Found:
    """All that was found, gathered.

    Args:
        splits: by name.
        classes: how many classes the task has.
    """

    def __init__(self, splits: dict[str, Split], classes: int) -> None:
        self.total, self.read, self.classes = sum(map(len, splits.values())), 0, classes
        self.problems: list[tuple[str, str]] = []
        """Where, and the message."""
        self.samples = {name: len(split) for name, split in splits.items()}
        self.sizes = {name: Counter[tuple[int, int]]() for name in splits}
        self.with_class = {name: Counter[int]() for name in splits}
        self.of_class = {name: Counter[int]() for name in splits}
        self._rows: dict[str, Row] = {}
        self._first: dict[bytes, tuple[str, str, tuple[tuple[int, int], ...]]] = {}

    def add(self, one: Looked) -> None:
        """Take one sample's."""
        self.read += 1
        if one.problem is not None:
            what, message = one.problem
            self.problems.append((one.where, message))
            self._count(True, what, one.where)
            return
        for remark in one.remarks:
            self._count(False, remark, one.where)
        if one.size is not None:
            self.sizes[one.split][one.size] += 1
        for number, count in one.classes:
            self.with_class[one.split][number] += 1
            self.of_class[one.split][number] += count
        split, where, classes = self._first.setdefault(one.content, (one.split, one.where, one.classes))
        if where == one.where and split == one.split:
            return
        both = f"{where} = {one.where}"
        same = "within one split" if split == one.split else f"in {split} and {one.split}"
        self._count(False, f"same image {same}", both)
        if classes != one.classes:
            self._count(False, "same image, labelled otherwise", both)

    def rows(self) -> list[Row]:
        """What was found: what stops a run first, then by how often."""
        found = list(self._rows.values())
        for name in self.samples:
            never = [number for number in range(self.classes) if not self.with_class[name][number]]
            if never and self.with_class[name]:
                shown = ", ".join(map(str, never[:6])) + (", ..." if len(never) > 6 else "")
                found.append(Row(False, f"classes never in {name}", len(never), f"class {shown}"))
        return sorted(found, key=lambda row: (not row.stops, -row.count))

    def _count(self, stops: bool, what: str, where: str) -> None:
        row = self._rows.setdefault(what, Row(stops, what, 0, where))
        row.count += 1


def default_readers(splits: dict[str, Split]) -> int:
    """How many processes a scan reads with: none where starting them would take longer than reading."""
    files = sum(len(split) for split in splits.values() if is_raw(split))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if files < 20 * AT_ONCE else min(16, cores)


def spread(counts: Counter[int], classes: int) -> tuple[int, int, int]:
    """The fewest, the median and the most of any class."""
    values = np.sort([counts[number] for number in range(classes)] or [0])
    return int(values[0]), int(np.median(values)), int(values[-1])

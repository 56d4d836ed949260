"""A whole dataset read once: what in it would stop a run, and what one should know of it before."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ray_kd.config.errors import UserError
from ray_kd.data.base import Dataset, Split, is_raw
from ray_kd.data.image_files import OddFile, remarks
from ray_kd.data.loading import NOT_PICKLABLE, end_processes, process_loader, start_reading
from ray_kd.data.sample_checks import SPLITS, CheckedSplit, checks_of
from ray_kd.outputs import IGNORE

AT_ONCE = 16
"""Samples that a process is asked for at a time."""

NEEDED = {"segmentation": "mask", "detection": "box_label", "classification": "label"}
"""Which column of a sample holds the classes of each task."""

Part = tuple[str, int, int]
"""Some samples: a split's name, the first of them, and the one after the last."""


@dataclass(frozen=True)
class ScannedSample:
    """What was found in one sample.

    Attributes:
        where: the file it is read from, or its place in the split.
        problem: what would stop a run, and the row it is counted in; None: nothing.
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


class SampleScanner(TorchDataset):
    """Reads and checks samples, in this process or in one that reads ahead.

    Args:
        task: its name, by which is known what of a sample it needs; None: whatever the sample has.
    """

    def __init__(self, splits: dict[str, CheckedSplit], task: str | None = None) -> None:
        self.splits, self.task = splits, task

    def __getitem__(self, part: Part) -> list[ScannedSample]:
        name, first, end = part
        return [self.scan_one(name, index) for index in range(first, end)]

    def scan_one(self, name: str, index: int) -> ScannedSample:
        """One sample; whatever reading it raises is what would stop a run."""
        split, number = self.splits[name], torch.tensor([index])
        where, file = f"sample {index} of {name}", None
        with contextlib.suppress(AttributeError):  # a dataset whose samples are no files
            file = split.paths(index)[0]
        try:
            if is_raw(split.split):
                sample = split.checks.raw(split.split.raw(index), number)
            else:
                sample = {column: values[0].cpu() for column, values in split.gather(number).items()}
            classes = count_classes(sample, self.task)
            known = remarks(file) if file is not None else []
            if "mask" in sample and set(classes) == {0} and bool((sample["mask"] == IGNORE).any()):
                known.append("a mask of class 0 and ignored alone")  # perhaps saved in black and white
        except Exception as error:  # of a file, or of anybody's dataset
            what, message = _problem(error)
            return ScannedSample(
                name, file or where, (what, message.removeprefix(f"{name}, sample {index}: "))
            )
        image = sample["image"].contiguous()
        content = hashlib.blake2b(image.numpy().tobytes(), digest_size=16)
        content.update(repr((image.dtype, tuple(image.shape))).encode())
        size = image.shape[-2], image.shape[-1]
        return ScannedSample(
            name, file or where, None, tuple(known), size, content.digest(), tuple(classes.items())
        )


def checked_splits(dataset: Dataset) -> dict[str, CheckedSplit]:
    """The splits of a dataset by name, checked as training checks them; one that is another as well under
    both names."""
    found: dict[str, Split] = {}
    for name in SPLITS:
        split = getattr(dataset, name)
        same = next((known for known, other in found.items() if other is split), None)
        if same is not None:
            found[f"{same} = {name}"] = found.pop(same)
        else:
            found[name] = split
    return {name: CheckedSplit(split, checks_of(dataset, name)) for name, split in found.items()}


def scan(
    splits: dict[str, CheckedSplit], processes: int, task: str | None = None
) -> Generator[list[ScannedSample]]:
    """What is found in every sample of every split, some at a time and in order.

    Args:
        processes: how many read; 0: this one. They end when the iterator is closed.
    """
    scanner = SampleScanner(splits, task)
    plan = [
        (name, first, min(first + AT_ONCE, len(split)))
        for name, split in splits.items()
        for first in range(0, len(split), AT_ONCE)
    ]
    if not processes:
        yield from (scanner[part] for part in plan)
        return
    loader, done = process_loader(scanner, plan, processes), 0
    try:
        every = start_reading(loader)
    except NOT_PICKLABLE:
        end_processes(loader)
        yield from (scanner[part] for part in plan)
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


def count_classes(sample: dict[str, Tensor], task: str | None = None) -> Counter[int]:
    """How many labels, objects or pixels of each class a sample has."""
    needed = NEEDED.get(task or "") or next((name for name in NEEDED.values() if name in sample), None)
    if needed is None:
        return Counter()
    if needed not in sample:
        raise UserError(f"expected {needed} for the task {task}, got only {', '.join(sample)}.")
    values, counts = sample[needed].unique(return_counts=True)
    no_class = {"mask": IGNORE, "box_label": -1}.get(needed)
    found = zip(values.tolist(), counts.tolist(), strict=True)
    return Counter({value: count for value, count in found if value != no_class})


def _problem(error: Exception) -> tuple[str, str]:
    if isinstance(error, OddFile):
        return error.what, str(error)
    if isinstance(error, UserError):
        return "a sample that is refused", str(error)
    return "a sample that raises an error", f"{type(error).__name__}: {error}"


@dataclass
class Finding:
    """A row of what was found: how often, and an example."""

    stops: bool
    what: str
    count: int
    example: str


class ScanResult:
    """All that was found, gathered."""

    def __init__(self, splits: Mapping[str, Split], classes: int) -> None:
        self.total, self.read, self.classes = sum(map(len, splits.values())), 0, classes
        self.problems: list[tuple[str, str]] = []
        """Where, and the message."""
        self.samples = {name: len(split) for name, split in splits.items()}
        self.sizes = {name: Counter[tuple[int, int]]() for name in splits}
        self.with_class = {name: Counter[int]() for name in splits}
        self.of_class = {name: Counter[int]() for name in splits}
        self._rows: dict[str, Finding] = {}
        self._first: dict[bytes, tuple[str, str, tuple[tuple[int, int], ...]]] = {}

    def add(self, one: ScannedSample) -> None:
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

    def rows(self) -> list[Finding]:
        """What was found: what stops a run first, then by how often."""
        found = list(self._rows.values())
        for name in self.samples:
            never = [number for number in range(self.classes) if not self.with_class[name][number]]
            if never and self.with_class[name]:
                shown = ", ".join(map(str, never[:6])) + (", ..." if len(never) > 6 else "")
                found.append(Finding(False, f"classes never in {name}", len(never), f"class {shown}"))
        return sorted(found, key=lambda row: (not row.stops, -row.count))

    def _count(self, stops: bool, what: str, where: str) -> None:
        row = self._rows.setdefault(what, Finding(stops, what, 0, where))
        row.count += 1


def default_readers(splits: Mapping[str, Split]) -> int:
    """How many processes a scan reads with: none where starting them would take longer than reading."""
    files = sum(len(split) for split in splits.values() if is_raw(split))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if files < 20 * AT_ONCE else min(16, cores)


def spread(counts: Counter[int], classes: int) -> tuple[int, int, int]:
    """The fewest, the median and the most of any class."""
    values = np.sort([counts[number] for number in range(classes)] or [0])
    return int(values[0]), int(np.median(values)), int(values[-1])

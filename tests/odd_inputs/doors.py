"""The three doors by which samples come in, and small things to send through them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ray_kd.config.options import Options
from ray_kd.config.registry import DATASETS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.outputs import Outputs
from ray_kd.training.distill import distill
from tests.helpers import tiny

DOORS = ("python", "memory", "read")
"""A list handed to ``distill``; a registered dataset in memory; one that reads its batches."""
SPLITS = ("train", "validation", "test")
CLASSES = 4


class Net(nn.Module):
    """Somebody's network, of one stage."""

    def __init__(self, channels: int = 1, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4, classes)
        self.stage_channels = (4,)

    def forward(self, image: Tensor) -> Outputs:
        feature = self.conv(image).relu()
        return Outputs((feature,), self.head(feature.mean((2, 3))))


def net(channels: int = 1, classes: int = CLASSES) -> Net:
    """The same weights each time."""
    torch.manual_seed(0)
    return Net(channels, classes)


def pictures(count: int = 16, channels: int = 1, size: int = 8) -> Tensor:
    """Images that get brighter with their class, in [0, 1]: something to learn."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.rand(count, channels, size, size, generator=generator) * 0.2
    return noise + (torch.arange(count) % CLASSES).view(-1, 1, 1, 1) * 0.2


def classes(count: int = 16) -> list[int]:
    """The classes of those."""
    return [index % CLASSES for index in range(count)]


class Rows:
    """A registered dataset's own split: it gives what it has."""

    def __init__(self, columns: dict[str, Any], count: int) -> None:
        self.columns, self.ids = columns, torch.arange(count)

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, index: Tensor) -> dict[str, Any]:
        return {**{name: values[index] for name, values in self.columns.items()}, "sample": self.ids[index]}


class OddOptions(Options):
    """Options of data that a test made."""


class Odd(Dataset):
    """Data that a test made."""

    Options: ClassVar[Any] = OddOptions
    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    made: ClassVar[dict[str, Any]] = {}
    classes = CLASSES

    def __init__(self, options: OddOptions) -> None:
        for name in SPLITS:
            setattr(self, name, self.made[name])
        self.channels = int(self.made["channels"])


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Odd]]:
    """Registers that dataset."""
    DATASETS.load()
    monkeypatch.setitem(DATASETS._entries, "odd", Odd)
    for owner, attribute, value in (
        (Odd, "name", "odd"),
        (Odd, "version", 1),
        (OddOptions, "component_name", "odd"),
        (OddOptions, "component_version", 1),
    ):
        monkeypatch.setattr(owner, attribute, value, raising=False)
    return Odd


def spec(storage: Path, **changes: Any) -> RunSpec:
    """A run of two epochs without a teacher."""
    plain: dict[str, Any] = {
        "paths": [],
        "teacher": None,
        "views": "none",
        "training": {"epochs": 2, "batch_size": 4},
    }
    return tiny(storage, **{**plain, **changes})


def send(
    door: str,
    storage: Path,
    changed: dict[str, Any],
    where: str = "train",
    channels: int = 1,
    student: nn.Module | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train on plain data, one split of which has other columns, sent in by a door; the summary.

    Args:
        changed: columns (lists, or tensors whose rows are samples) in place of the plain ones of ``where``.
    """
    columns = {
        name: {"image": pictures(channels=channels), "label": torch.tensor(classes())} for name in SPLITS
    }
    columns[where] = changed if "image" in changed else {**columns[where], **changed}
    student = net(channels) if student is None else student
    if door == "python":
        sets: dict[str, Any] = {
            name: [
                (given["image"][i], given["label"][i])
                if set(given) == {"image", "label"}
                else {key: values[i] for key, values in given.items()}
                for i in range(len(given["image"]))
            ]
            for name, given in columns.items()
        }
        return distill(spec(storage, **changes), student=student, **sets)
    tensors = {
        name: {key: torch.as_tensor(values) for key, values in given.items()}
        for name, given in columns.items()
    }
    splits: dict[str, Any] = {}
    for name, given in tensors.items():
        if door == "memory":
            rest = {key: values for key, values in given.items() if key != "image"}
            splits[name] = TensorSplit(given["image"], **rename(rest))
        else:
            splits[name] = Rows(given, len(given["image"]))
    Odd.made = {**splits, "channels": channels}
    return distill(spec(storage, dataset="odd", **changes), student=student)


def rename(columns: dict[str, Tensor]) -> dict[str, Any]:
    """Columns as TensorSplit takes them: labels have an argument of their own."""
    return {("labels" if name == "label" else name): values for name, values in columns.items()}


def figures(summary: dict[str, Any]) -> Any:
    """What a run came to."""
    return summary["status"], summary["last"]["test"], summary["best"]["val"]

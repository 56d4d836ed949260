"""Labels as people's datasets have them: read rightly by every door, or one message before step 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from tests.odd_inputs.doors import CLASSES, DOORS, classes, figures, net, odd, pictures, send, spec

__all__ = ["odd"]
pytestmark = pytest.mark.usefixtures("odd")

RIGHT = torch.tensor(classes())
TAKEN: dict[str, Any] = {
    "whole floats": RIGHT.float(),
    "doubles": RIGHT.double(),
    "bytes": RIGHT.to(torch.uint8),
    "of shape (N, 1)": RIGHT[:, None],
    "one-hot": F.one_hot(RIGHT, CLASSES),
    "one-hot floats": F.one_hot(RIGHT, CLASSES).float(),
}
TAKEN_OF_LISTS: dict[str, Any] = {
    "Python ints": classes(),
    "NumPy ints": list(np.array(classes(), dtype=np.int16)),
    "0-d tensors": list(RIGHT),
    "tensors of one number": [value[None] for value in RIGHT],
    "lists of one number": [[value] for value in classes()],
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", TAKEN)
def test_a_class_is_read_from_any_form_that_says_it(tmp_path: Path, door: str, kind: str) -> None:
    plain = figures(send("python", tmp_path / "plain", {}))
    assert figures(send(door, tmp_path / "odd", {"label": TAKEN[kind]})) == plain


@pytest.mark.parametrize("kind", TAKEN_OF_LISTS)
def test_the_same_of_a_list(tmp_path: Path, kind: str) -> None:
    plain = figures(send("python", tmp_path / "plain", {}))
    assert figures(send("python", tmp_path / "odd", {"label": TAKEN_OF_LISTS[kind]})) == plain


@pytest.mark.parametrize("door", DOORS)
def test_yes_and_no_are_classes_1_and_0(tmp_path: Path, door: str) -> None:
    labels = (RIGHT % 2).bool()
    as_numbers = figures(send(door, tmp_path / "numbers", {"label": labels.long()}))
    assert figures(send(door, tmp_path / "odd", {"label": labels})) == as_numbers


def replaced(index: int, value: float) -> torch.Tensor:
    labels = RIGHT.clone() if value == int(value) else RIGHT.float()
    labels[index] = value
    return labels


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "-1": (replaced(5, -1), ["sample 5", "got -1", "0 to 3", "not labelled"]),
    "255": (replaced(6, 255), ["sample 6", "got 255", "not labelled"]),
    "a fraction": (replaced(3, 1.5), ["sample 3", "got 1.5"]),
    "NaN": (torch.cat([RIGHT[:-1].float(), torch.tensor([float("nan")])]), ["sample 15", "got nan"]),
    "shares of classes": (torch.full((16, CLASSES), 0.25), ["sample 0", "one-hot", "mixup"]),
    "two of many": (F.one_hot(RIGHT, CLASSES) + F.one_hot((RIGHT + 1) % 4, CLASSES), ["sample 0", "one-hot"]),
    "one for each pixel": (torch.zeros(16, 8, 8, dtype=torch.long), ["one class"]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_class_is_one_message_before_step_1(tmp_path: Path, door: str, kind: str) -> None:
    labels, named = REFUSED[kind]
    with pytest.raises(UserError) as caught:
        send(door, tmp_path, {"label": labels})
    message = str(caught.value)
    for word in ["train", *named]:
        assert word in message, message
    assert "\n" not in message
    assert not list(tmp_path.rglob("epochs.jsonl")), "no epoch was trained"


@pytest.mark.parametrize("door", DOORS)
def test_classes_that_begin_at_1_are_seen(tmp_path: Path, door: str) -> None:
    """1..4 for 0..3: an output would never be right, and class 4 has none."""
    with pytest.raises(UserError, match=r"train.*[Ss]ubtract 1"):
        send(door, tmp_path, {"label": RIGHT + 1})


@pytest.mark.parametrize("kind", ["words", "nothing", "one-hot of another length"])
def test_what_is_no_number_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    labels: Any = {
        "words": ["cat"] * 16,
        "nothing": [None] * 16,
        "one-hot of another length": [*F.one_hot(RIGHT[:-1], 4), torch.tensor([0, 1])],
    }[kind]
    with pytest.raises(UserError, match=r"train.*label"):
        send("python", tmp_path, {"label": labels})


@pytest.mark.parametrize("door", DOORS)
def test_a_class_only_in_validation_is_no_index_error(
    tmp_path: Path, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A list says its labels: the class counts, though none learns it. A dataset says how many it has."""
    labels = RIGHT.clone()
    labels[9] = 4
    if door == "python":
        summary = send(door, tmp_path, {"label": labels}, "validation", student=net(classes=5))
        assert summary["status"] == "finished"
        assert "validation has classes that train does not have: 4" in caplog.text
        with pytest.raises(UserError, match=r"student.*are for 4 classes.*5"):
            send(door, tmp_path, {"label": labels}, "validation", student=net(classes=4))
    else:
        with pytest.raises(
            UserError, match=r"validation, sample 9: label: expected a class from 0 to 3, got 4"
        ):
            send(door, tmp_path, {"label": labels}, "validation")


class Silent:
    """A dataset that does not say its labels beside its samples."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.values, self.read = labels, list[int]()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return pictures()[index], self.values[index]


def test_a_late_sample_that_is_wrong_is_refused_when_it_is_read(tmp_path: Path) -> None:
    from ray_kd.training.distill import distill

    labels = RIGHT.clone()
    labels[13] = 7
    sets: dict[str, Any] = {"train": Silent(RIGHT), "validation": Silent(RIGHT), "test": Silent(labels)}
    with pytest.raises(UserError, match=r"test, sample 13: label: .* 0 to 3, got 7.*classes=N"):
        distill(spec(tmp_path), student=net(), **sets)
    for name in ("train", "validation"):
        distinct = len(set(sets[name].read))
        assert distinct == 16


def test_nobody_reads_a_whole_set_to_look_at_it(tmp_path: Path) -> None:
    """The student says how many classes there are; the first samples of each set are looked at."""
    from ray_kd.training.distill import distill

    class Long(Silent):
        def __len__(self) -> int:
            return 4000

        def __getitem__(self, index: int) -> Any:
            self.read.append(index)
            return pictures()[index % 16], RIGHT[index % 16]

    sets = {name: Long(RIGHT) for name in ("train", "validation", "test")}

    def stop(*_: Any) -> None:
        raise AssertionError("no epoch")

    with pytest.raises(UserError, match="batch"):
        distill(spec(tmp_path, training={"epochs": 1, "batch_size": 5000}), student=net(), **sets)
    for given in sets.values():
        assert len(given.read) < 100


@pytest.mark.parametrize("number", [CLASSES, 9])
def test_how_many_classes_there_are_can_be_said(tmp_path: Path, number: int) -> None:
    from ray_kd.training.distill import distill

    rows = list(zip(pictures(), classes(), strict=True))
    sets: dict[str, Any] = {"train": rows, "validation": rows, "test": rows}
    run = spec(tmp_path, student={"name": "digits_cnn", "width": 2})
    student = distill(run, classes=number, **sets)
    plain = distill(run, **sets)
    assert student["parameters"] - plain["parameters"] == (number - CLASSES) * (6 + 1)  # weights and bias
    with pytest.raises(UserError, match="0 to 1, got 2"):
        distill(run, classes=2, **sets)

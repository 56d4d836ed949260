"""Sets that are none, and masks and boxes that do not fit: one message before step 1."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from ray_kd.config.errors import UserError
from ray_kd.data.base import MapSplit
from ray_kd.data.sample_checks import CheckedSplit, SampleChecks
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.training.distill import distill
from tests.odd_inputs.doors import CLASSES, DOORS, classes, figures, net, odd, pictures, send, spec

__all__ = ["odd"]
pytestmark = pytest.mark.usefixtures("odd")

ROWS = list(zip(pictures(), classes(), strict=True))


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        yield from ROWS


class Unsized:
    def __getitem__(self, index: int) -> Any:
        return ROWS[index]


class Lazy(torch.utils.data.Dataset):
    """torch's own Dataset has no length of its own."""

    def __getitem__(self, index: int) -> Any:
        return ROWS[index]


NONE: dict[str, tuple[Any, list[str]]] = {
    "empty": ([], ["at least one sample"]),
    "iterable": (Endless(), ["map-style", "Endless"]),
    "without a length": (Unsized(), ["map-style", "Unsized"]),
    "torch's, without a length": (Lazy(), ["map-style", "Lazy"]),
    "a DataLoader": (DataLoader(ROWS), ["DataLoader", "loader.dataset"]),
    "a mapping": ({0: ROWS[0]}, ["map-style", "dict"]),
    "a path": ("data/train", ["map-style", "str"]),
    "a generator": (iter(ROWS), ["map-style"]),
}


@pytest.mark.parametrize("where", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", NONE)
def test_what_is_no_set_of_samples(tmp_path: Path, kind: str, where: str) -> None:
    given, named = NONE[kind]
    with pytest.raises(UserError) as caught:
        distill(
            spec(tmp_path), student=net(), **{"train": ROWS, "validation": ROWS, "test": ROWS, where: given}
        )
    for word in [where, *named]:
        assert word in str(caught.value), str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("door", DOORS)
def test_a_set_without_samples(tmp_path: Path, door: str) -> None:
    nothing = {"image": torch.zeros(0, 1, 8, 8), "label": torch.zeros(0, dtype=torch.long)}
    with pytest.raises(UserError, match=r"validation: expected at least one sample, got none"):
        send(door, tmp_path, nothing, "validation")


@pytest.mark.parametrize("door", DOORS)
def test_fewer_samples_than_a_batch(tmp_path: Path, door: str) -> None:
    with pytest.raises(UserError, match=r"batch_size|batch"):
        send(door, tmp_path, {}, training={"epochs": 1, "batch_size": 17})


ITEMS: dict[str, tuple[Any, list[str]]] = {
    "an image alone": (pictures()[0], ["(image, label)", "Tensor"]),
    "three things": ((pictures()[0], 1, "file.jpg"), ["(image, label)", "tuple of 3"]),
    "other names": ({"pixel_values": pictures()[0], "label": 1}, ["image", "pixel_values, label"]),
    "no label": ({"image": pictures()[0]}, ["label, mask", "image"]),
    "nothing": (None, ["(image, label)", "NoneType"]),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_a_sample_that_is_none(tmp_path: Path, kind: str) -> None:
    item, named = ITEMS[kind]
    with pytest.raises(UserError) as caught:
        distill(spec(tmp_path), student=net(), train=[item] * 8, validation=ROWS, test=ROWS)
    for word in ["sample 0", *named]:
        assert word in str(caught.value), str(caught.value)


def test_the_sets_of_torch_are_taken(tmp_path: Path) -> None:
    """And their labels read beside their samples, through a Subset and a ConcatDataset."""
    plain = figures(distill(spec(tmp_path / "a"), student=net(), train=ROWS, validation=ROWS, test=ROWS))
    tensors = TensorDataset(pictures(), torch.tensor(classes()))
    joined = ConcatDataset([Subset(tensors, range(5)), Subset(tensors, range(5, 16))])
    for name, given in (("b", tensors), ("c", joined), ("d", Subset(ROWS, range(16)))):
        sets = {"train": given, "validation": given, "test": given}
        assert figures(distill(spec(tmp_path / name), student=net(), **sets)) == plain


def test_labels_beside_samples_that_a_transform_changes_are_not_believed(tmp_path: Path) -> None:
    class Turned(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image, CLASSES - 1 - label

    turned = Turned(pictures(), 3 - torch.tensor(classes()) + 5 * (torch.arange(16) == 15))
    with pytest.raises(UserError, match=r"sample 15.*got -2"):
        distill(spec(tmp_path), student=net(), train=turned, validation=ROWS, test=ROWS)


class Pixels(nn.Module):
    """Somebody's network for masks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CLASSES, 3, padding=1)

    def forward(self, image: Tensor) -> Outputs:
        return Outputs((), self.conv(image))


def masks() -> Tensor:
    found = torch.tensor(classes()).view(-1, 1, 1).repeat(1, 8, 8)
    found[:, 0] = IGNORE
    return found


def changed_mask(value: float) -> Tensor:
    found = masks() if value == int(value) else masks().float()
    found[11, 4, 4] = value
    return found


def send_masks(door: str, storage: Path, mask: Any, where: str = "train") -> dict[str, Any]:
    plain = {"image": pictures(), "mask": masks()}
    torch.manual_seed(0)
    student = Pixels()
    rows = {"image": pictures(), "mask": mask}
    from tests.odd_inputs import doors

    columns = dict.fromkeys(doors.SPLITS, plain) | {where: rows}
    run = spec(storage, task="segmentation", dataset="odd" if door != "python" else "scenes")
    if door == "python":
        sets = {
            name: [{"image": given["image"][i], "mask": given["mask"][i]} for i in range(16)]
            for name, given in columns.items()
        }
        return distill(run, student=student, **sets)
    make = {
        "memory": lambda given: doors.TensorSplit(given["image"], mask=given["mask"]),
        "read": lambda given: doors.Rows(given, 16),
    }[door]
    doors.Odd.made = {**{name: make(given) for name, given in columns.items()}, "channels": 1}
    return distill(run, student=student)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["bytes", "floats", "one channel"])
def test_masks_are_read_from_any_form_that_says_them(tmp_path: Path, door: str, kind: str) -> None:
    given = {"bytes": masks().to(torch.uint8), "floats": masks().float(), "one channel": masks()[:, None]}[
        kind
    ]
    plain = figures(send_masks("python", tmp_path / "plain", masks()))
    assert figures(send_masks(door, tmp_path / "odd", given)) == plain


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("value", "named"), [(-1, "-1"), (1.5, "1.5")])
def test_a_value_of_a_mask_that_is_no_class(tmp_path: Path, door: str, value: float, named: str) -> None:
    with pytest.raises(UserError, match=rf"train, sample 11: mask: .*got {named}"):
        send_masks(door, tmp_path, changed_mask(value))


@pytest.mark.parametrize("door", ["memory", "read"])
@pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
def test_colours_of_a_mask_are_no_classes(tmp_path: Path, door: str, dtype: torch.dtype) -> None:
    """A list of masks says how many classes there are by itself; a dataset has said so."""
    mask = changed_mask(38).to(dtype)
    mask[11, 5, 5] = 75
    with pytest.raises(
        UserError, match=r"validation, sample 11: mask: .*0 to 3, or 255.*got 38, 75.*[Cc]olours"
    ):
        send_masks(door, tmp_path, mask, "validation")


@pytest.mark.parametrize("door", DOORS)
def test_a_mask_of_another_size_than_its_picture(tmp_path: Path, door: str) -> None:
    with pytest.raises(UserError, match=r"train.*mask: .*8x8 pixels, got \(8, 7\)"):
        send_masks(door, tmp_path, masks()[:, :, :7])


LOOK = SampleChecks("train", {"box_label": 3}, 1, remedy="There are 3.")
BOX = [1.0, 1.0, 5.0, 6.0]


def look_at(box: list[float], label: int = 1) -> dict[str, Tensor]:
    """One box among others, in the third of four pictures of 8x8."""
    boxes = torch.tensor(BOX).repeat(4, 2, 1)
    labels = torch.ones(4, 2, dtype=torch.long)
    boxes[2, 1], labels[2, 1] = torch.tensor(box), label
    rows = {"image": pictures(4), "boxes": boxes, "box_label": labels}
    return LOOK.batch(rows, torch.tensor([10, 20, 30, 40]))


@pytest.mark.parametrize(
    ("box", "label", "named"),
    [
        ([5, 1, 2, 6], 1, r"x1 < x2 and y1 < y2; got \[5.0, 1.0, 2.0, 6.0\].*width"),
        ([1, 6, 5, 1], 1, "x1 < x2 and y1 < y2"),
        ([1, 1, 1, 6], 1, "x1 < x2"),
        ([160, 160, 267, 267], 1, r"pixels of an image of 8x8; got \[160.0.*resized"),
        ([-30, 1, 5, 6], 1, "pixels of an image of 8x8"),
        ([1, 1, float("nan"), 6], 1, "finite"),
        ([1, 1, float("inf"), 6], 1, "finite"),
        (BOX, 3, r"box_label: expected a class from 0 to 2.*got 3.*There are 3"),
        (BOX, -2, "box_label: .*got -2"),
    ],
)
def test_a_box_that_cannot_be(box: list[float], label: int, named: str) -> None:
    with pytest.raises(UserError, match=rf"train, sample 30: .*{named}"):
        look_at(box, label)


@pytest.mark.parametrize("box", [[-0.5, 0, 8.7, 8], [0, 0, 8, 8], [3, 3, 3.01, 3.01]])
def test_a_box_that_can_be(box: list[float]) -> None:
    """Real annotations reach over an edge by a pixel."""
    assert torch.equal(look_at(box)["boxes"][2, 1], torch.tensor(box))


def test_padding_is_no_box() -> None:
    assert look_at([0, 0, 0, 0], -1)["box_label"][2, 1] == -1
    assert look_at([float("nan")] * 4, -1)["box_label"][2, 1] == -1


def test_boxes_without_labels_and_of_another_shape() -> None:
    boxes = torch.tensor(BOX).repeat(4, 2, 1)
    for columns in (
        {"boxes": boxes, "label": torch.zeros(4, dtype=torch.long)},
        {"boxes": boxes, "box_label": torch.ones(4, 3, dtype=torch.long)},
        {"boxes": boxes[..., :3], "box_label": torch.ones(4, 2, dtype=torch.long)},
    ):
        look = SampleChecks("train", {"box_label": 3, "label": 1}, 1)
        with pytest.raises(UserError, match=r"train: expected boxes \(M, 4\) and box_label \(M,\)"):
            look.batch({"image": pictures(4), **columns})


def test_pictures_of_one_batch_with_several_numbers_of_boxes() -> None:
    items = [
        {"image": pictures()[i], "boxes": torch.zeros(i, 4), "box_label": torch.zeros(i)} for i in (1, 2)
    ]
    with pytest.raises(UserError, match=r"boxes: .*\(1, 4\) and \(2, 4\).*-1"):
        MapSplit(items, "train").gather(torch.arange(2))


def test_what_is_watched_travels_to_other_processes() -> None:
    split = CheckedSplit(MapSplit(ROWS), SampleChecks("train", {"label": CLASSES}, 1))
    other = pickle.loads(pickle.dumps(split))  # noqa: S301 - our own
    assert len(other) == 16
    assert torch.equal(other.gather(torch.arange(3))["image"], split.gather(torch.arange(3))["image"])
    with pytest.raises(AttributeError):
        _ = other.raw

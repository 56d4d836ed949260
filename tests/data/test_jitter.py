"""Joint jitter: mask and boxes go where the image goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ray_kd.config.options import parse_component
from ray_kd.config.registry import VIEWS
from ray_kd.data.base import TensorSplit
from ray_kd.data.scene_drawing import tight_boxes
from ray_kd.data.views import Views
from ray_kd.outputs import IGNORE

STILL: dict[str, Any] = {"scale": 0, "contrast": 0, "brightness": 0}
SIZE = 30


def jitter(**options: Any) -> Views:
    made: Views = VIEWS.get("jitter")(parse_component(VIEWS, {"name": "jitter", **options}))
    return made


def squares(count: int = 40) -> TensorSplit:
    """One rectangle of class 3 in each image, white on black, at random places, some cut by the border."""
    draw = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 18, (count, 2), generator=draw).float()
    side = torch.randint(6, 12, (count, 2), generator=draw).float()
    boxes = torch.cat([corner, corner + side], 1)
    boxes = torch.stack([boxes, torch.zeros_like(boxes)], 1)
    place = torch.arange(SIZE)
    inside = [(place >= boxes[:, 0, a, None]) & (place < boxes[:, 0, a + 2, None]) for a in (0, 1)]
    ink = inside[1].unsqueeze(2) & inside[0].unsqueeze(1)
    label = torch.tensor([[2, -1]]).repeat(count, 1)
    return TensorSplit(
        ink.unsqueeze(1).repeat(1, 3, 1, 1).float(), mask=ink.long() * 3, boxes=boxes, box_label=label
    )


def moved(view: Views, number: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    split = squares()
    raw = split.gather(torch.arange(len(split)))
    return raw, view(raw, number, split)


def test_shifts_move_all_by_the_same_whole_pixels() -> None:
    raw, found = moved(jitter(pixels=3, **STILL))
    known = found["mask"] != IGNORE
    assert torch.equal(found["mask"][known] == 3, found["image"][:, 0][known] > 0.5)
    shifts = set()
    for before, after, label, mask in zip(
        raw["boxes"][:, 0], found["boxes"][:, 0], found["box_label"][:, 0], found["mask"], strict=True
    ):
        assert label == 2
        assert torch.equal(after, tight_boxes((mask == 3).unsqueeze(0))[0])
        if (after > 0).all() and (after < SIZE).all():  # not cut
            shift = after - before
            assert torch.equal(shift[:2], shift[2:])
            shifts.add(tuple(shift[:2].tolist()))
            uncovered = SIZE * SIZE - (SIZE - shift[0].abs()) * (SIZE - shift[1].abs())
            assert (mask == IGNORE).sum() == uncovered
    assert len(shifts) > 8
    assert {step for shift in shifts for step in shift} == set(range(-3, 4))
    assert (found["box_label"][:, 1] == -1).all()
    assert (found["boxes"][:, 1] == 0).all()


def test_scaled_boxes_stay_around_their_ink() -> None:
    raw, found = moved(jitter(pixels=2, scale=0.3, contrast=0, brightness=0))
    tight = tight_boxes(found["mask"] == 3)
    assert (found["boxes"][:, 0] - tight).abs().max() <= 1
    known = found["mask"] != IGNORE
    same = ((found["image"][:, 0] > 0.5) == (found["mask"] == 3))[known]
    assert same.float().mean() > 0.98
    area = [(box[:, 2:] - box[:, :2]).prod(1) for box in (raw["boxes"][:, 0], tight)]
    change = (area[1] / area[0]).sqrt()
    assert change.min() < 0.85
    assert change.max() > 1.1


def test_brightness_and_contrast_change_the_image_alone() -> None:
    raw, found = moved(jitter(pixels=0, scale=0))
    for name in ("mask", "boxes", "box_label"):
        assert torch.equal(raw[name], found[name]), name
    levels = [
        (image[0][ink].mean(), image[0][~ink].mean())
        for image, ink in zip(found["image"], raw["mask"] == 3, strict=True)
    ]
    dark = torch.stack([level[1] for level in levels])
    span = torch.stack([level[0] - level[1] for level in levels])
    assert 0.1 < dark.abs().max() <= 0.2 + 1e-5
    assert 0.1 < (span - 1).abs().max() <= 0.2 + 1e-5


def test_what_is_mostly_outside_is_dropped() -> None:
    image = torch.zeros(64, 1, 20, 20)
    boxes = torch.tensor([[[0.0, 5, 4, 15]]]).repeat(64, 1, 1)
    split = TensorSplit(image, boxes=boxes, box_label=torch.zeros(64, 1, dtype=torch.long))
    found = jitter(pixels=4, **STILL)(split.gather(torch.arange(64)), 0, split)
    widths = (found["boxes"][:, 0, 2] - found["boxes"][:, 0, 0]).int().tolist()
    labels = found["box_label"][:, 0].tolist()
    assert {(width, label) for width, label in zip(widths, labels, strict=True)} == {
        (0, -1),  # one pixel or none of four is left
        (2, 0),
        (3, 0),
        (4, 0),
    }


def test_a_view_is_a_function_of_seed_sample_and_view() -> None:
    split = squares()
    view = jitter(count=5)
    whole = view(split.gather(torch.arange(40)), 3, split)
    torch.rand(3)
    for part in torch.randperm(40).split(7):
        alone = view(split.gather(part), 3, split)
        for name in whole:
            assert torch.equal(alone[name], whole[name][part]), name
    for other in (view(split.gather(torch.arange(40)), 4, split), moved(jitter(seed=1), 3)[1]):
        assert not torch.equal(other["mask"], whole["mask"])

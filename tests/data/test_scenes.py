"""Scenes: what their masks and boxes say is what was drawn."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS
from ray_kd.data.scene_drawing import labelled, tight_boxes
from ray_kd.data.scenes import Scenes, _digits
from ray_kd.outputs import IGNORE

FEW = {"train": 40, "validation": 20, "test": 20}


def scenes(**options: Any) -> Scenes:
    made: Scenes = DATASETS.get("scenes")(parse_component(DATASETS, {"name": "scenes", **FEW, **options}))
    return made


@cache
def few() -> Scenes:
    return scenes()


def columns(data: Scenes, split: str = "train") -> dict[str, Tensor]:
    part = getattr(data, split)
    found: dict[str, Tensor] = part.gather(torch.arange(len(part)))
    return found


def test_shapes_and_ranges() -> None:
    for options, channels, most in (({}, 3, 4), ({"channels": 1, "size": 32, "objects": [0, 2]}, 1, 2)):
        data = scenes(**options)
        size = options.get("size", 48)
        found = columns(data)
        assert found["image"].shape == (40, channels, size, size)
        assert found["mask"].shape == (40, size, size)
        assert found["boxes"].shape == (40, most, 4)
        assert found["box_label"].shape == (40, most)
        assert data.mean is not None
        assert data.std is not None
        pixels = found["image"] * data.std[0] + data.mean[0]
        assert -1e-6 <= pixels.min() < 0.2
        assert 0.8 < pixels.max() <= 1 + 1e-6
        assert set(found["mask"].unique().tolist()) <= {*range(11), IGNORE}
        assert (data.classes_of("segmentation"), data.classes_of("detection")) == (11, 10)


def test_boxes_are_tight_around_ink_of_their_class() -> None:
    found = columns(few())
    checked = 0
    for mask, boxes, labels in zip(found["mask"], found["boxes"], found["box_label"], strict=True):
        present = labels >= 0
        assert not present.int().diff().gt(0).any(), "objects come first, padding last"
        assert (boxes[~present] == 0).all()
        ink = {int(label) - 1 for label in mask.unique() if 0 < label < IGNORE}
        assert ink == set(labels[present].tolist())
        for label in ink:
            mine = boxes[labels == label]
            around = tight_boxes((mask == label + 1).unsqueeze(0))[0]
            assert torch.equal(mine[:, :2].amin(0), around[:2])
            assert torch.equal(mine[:, 2:].amax(0), around[2:])
            checked += 1
    assert checked > 40


def test_a_scene_is_a_function_of_seed_split_and_number() -> None:
    data, more = few(), scenes(train=60, validation=30, labels=50)
    torch.rand(3)
    for split in ("train", "validation", "test"):
        few_, many = columns(data, split), columns(more, split)
        for name in ("image", "mask", "boxes", "box_label"):
            assert torch.equal(few_[name], many[name][: len(few_[name])]), (split, name)
    other = columns(scenes(seed=1))
    assert not torch.equal(other["mask"], columns(data)["mask"])
    first = [columns(data, split)["image"][0] for split in ("train", "validation", "test")]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_light_ink_is_lighter_than_its_scene() -> None:
    both, light = (
        columns(scenes(ink=ink, noise=0, contrast=0.4, clutter=0, objects=[1, 1]))
        for ink in ("both", "light")
    )
    assert torch.equal(both["mask"], light["mask"])
    for found, lighter in ((light, {True}), (both, {True, False})):
        pairs = zip(found["image"].mean(1), found["mask"], strict=True)
        assert {
            bool(image[(mask > 0) & (mask < IGNORE)].mean() > image[mask == 0].mean())
            for image, mask in pairs
        } == lighter


def test_splits_share_neither_ids_nor_digit_images() -> None:
    ids = [set(getattr(few(), split).ids.tolist()) for split in ("train", "validation", "test")]
    assert sum(map(len, ids)) == len(ids[0] | ids[1] | ids[2]) == 80
    assert len(scenes(labels=10).train) == 10
    assert scenes(labels=10).validation.ids.tolist() == few().validation.ids.tolist()
    pools = [{bytes(image.numpy().tobytes()) for image in _digits(0)[split][0]} for split in _digits(0)]
    assert sum(map(len, pools)) == len(set().union(*pools)) == 1797


def test_what_is_nearly_hidden_is_nobodys() -> None:
    """Two squares in one scene: the second covers three quarters of the first, then a part of it."""
    first, second = torch.zeros(2, 1, 20, 20)
    first[0, 2:10, 2:10] = 1
    second[0, 4:12, 2:12] = 1
    labels = torch.tensor([[3, 8]])

    def drawn() -> dict[str, Tensor]:
        owner = torch.full((1, 20, 20), -1)
        for number, opacity in enumerate((first, second)):
            owner[opacity > 0.5] = number
        return labelled(owner, torch.stack([first, second]), labels)

    found = drawn()
    assert found["box_label"].tolist() == [[8, -1]]
    assert found["boxes"][0].tolist() == [[2, 4, 12, 12], [0, 0, 0, 0]]
    assert (found["mask"][0, 2:4, 2:10] == IGNORE).all()
    assert (found["mask"][0, 4:12, 2:12] == 9).all()
    second[0, 4:7] = 0
    second[0, 11, 2:12] = 0.4  # a soft rim
    found = drawn()
    assert found["box_label"].tolist() == [[3, 8]]
    assert found["boxes"][0].tolist() == [[2, 2, 10, 7], [2, 7, 12, 11]]
    assert (found["mask"][0, 11, 2:12] == IGNORE).all()
    assert (found["mask"] == 0).sum() == 400 - 5 * 8 - 4 * 10 - 10


@pytest.mark.parametrize("options", [{"labels": 41}, {"objects": [3, 2]}, {"scale": [0.6, 0.5]}])
def test_impossible_scenes(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="dataset scenes"):
        scenes(**options)

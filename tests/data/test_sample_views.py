"""Views of single samples: the same in any process; masks and boxes follow the image."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.base import TensorSplit
from ray_kd.data.sample_views import drawing
from ray_kd.outputs import IGNORE
from tests.data.view_scene import EVERYTHING, MEAN, STD, Pictures, blob, data, same, views


def _viewed(job: tuple[str, dict[str, Any], int]) -> dict[str, Any]:
    name, options, index = job
    split = Pictures()
    shown: dict[str, Any] = views(name, **options).sample(split.raw(index), split, index, 2)
    return {key: torch.as_tensor(value).clone().numpy() for key, value in shown.items()}


@pytest.mark.parametrize(("name", "options"), [("photo", EVERYTHING), ("dense", {"brightness": 0.5})])
def test_a_view_of_a_raw_sample_is_the_same_in_any_process_and_order(
    name: str, options: dict[str, Any]
) -> None:
    jobs = [(name, options, index) for index in range(12)]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    here = [_viewed(job) for job in jobs]
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        elsewhere = list(pool.map(_viewed, reversed(jobs)))
    for one, other in zip(here, reversed(elsewhere), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    split, policy = Pictures(), views(name, **options)
    first = policy.sample(split.raw(0), split, 0, 2)
    assert not same(first, policy.sample(split.raw(0), split, 0, 3))
    assert same(split.raw(0), Pictures().raw(0)), "the raw sample was changed in place"


def test_policies_travel_to_other_processes() -> None:
    for name, options in (("photo", EVERYTHING), ("dense", {"hue": 0.1})):
        split, policy = Pictures(), views(name, **options)
        first = policy.sample(split.raw(2), split, 2, 1)
        assert same(first, pickle.loads(pickle.dumps(policy)).sample(split.raw(2), split, 2, 1))  # noqa: S301


def test_every_generator_is_keyed_within_a_view() -> None:
    def draws(*parts: int) -> list[float]:
        with drawing(*parts):
            return [float(torch.rand(())), np.random.random(), random.random()]

    first = draws(0, 1)
    assert first == draws(0, 1)
    assert all(one != other for one, other in zip(first, draws(0, 2), strict=True))


def test_a_dense_view_flipped_twice_is_the_sample() -> None:
    split = Pictures()
    same_size = {"scale": (1.0, 1.0), "relative": "image", "visible": 0, "smallest": 0, "flip": 1}
    raw = split.raw(3)
    dense = views("dense", size=tuple(raw["image"].shape[-2:]), **same_size)
    twice = dense.show(dense.show(raw, split.size), split.size)
    for name in ("image", "mask", "boxes", "box_label"):
        torch.testing.assert_close(torch.as_tensor(twice[name]), torch.as_tensor(raw[name]))


@pytest.mark.parametrize("relative", ["size", "image"])
def test_mask_and_box_follow_the_image(relative: str) -> None:
    policy = views("dense", size=(48, 40), relative=relative, scale=(0.6, 1.8), visible=0.5, smallest=3)
    raw = blob(64, 50, (12, 20, 32, 44))
    shown = kept = flips = 0
    for view in range(120):
        got = policy._shown(raw, 7, view, (1, 1))
        image, mask = got["image"].as_subclass(Tensor), got["mask"].as_subclass(Tensor)
        assert image.shape == (3, 48, 40)
        assert mask.shape == (48, 40)
        seen = mask != IGNORE
        wrong = ((image[0] > 127) != (mask == 1)) & seen
        assert wrong.float().mean() < 0.03  # nearest pixels and blended ones differ along the rim alone
        fill = torch.tensor(policy.fill(image)).to(torch.uint8)
        assert (image[:, ~seen] == fill[:, None]).all()
        assert len(got["boxes"]) == len(got["box_label"]) == len(got["area"])
        shown += 1
        rows, columns = (mask == 1).any(1).nonzero(), (mask == 1).any(0).nonzero()
        if len(got["boxes"]):
            kept += 1
            tight = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            box = got["boxes"].as_subclass(Tensor)[0]
            assert (box - torch.tensor(tight)).abs().max() <= 1
            area = (box[2:] - box[:2]).prod()
            torch.testing.assert_close(got["area"][0], area, rtol=0.05, atol=1.0)
            assert min(box[2:] - box[:2]) >= 3
            flips += int(columns[0]) + int(columns[-1]) > 0
        elif len(rows):
            assert len(rows) * len(columns) < 0.55 * (1.8 * 24 * 1.8 * 20)
    assert shown == 120
    assert 40 < kept <= 120


def test_a_mark_keeps_its_side_unless_flipped() -> None:
    raw = blob(40, 40, (0, 10, 8, 20))
    sides, policy = [], views("dense", scale=(1.0, 1.0))
    for view in range(200):
        got = policy._shown(raw, 1, view, (40, 40))
        columns = (got["mask"].as_subclass(Tensor) == 1).any(0).nonzero().flatten()
        box = got["boxes"].as_subclass(Tensor)[0]
        assert [float(columns[0]), float(columns[-1]) + 1] == [float(box[0]), float(box[2])]
        sides.append(float(box[0]) > 20)
    assert abs(np.mean(sides) - 0.5) < 0.12


def test_an_image_may_end_without_objects() -> None:
    policy = views("dense", size=(10, 10), relative="image", scale=(1.0, 1.0), visible=1.0)
    raw = {name: value for name, value in blob(60, 60, (0, 0, 6, 6)).items() if name != "mask"}
    counts = {len(policy._shown(raw, 0, view, (1, 1))["boxes"]) for view in range(20)}
    assert 0 in counts
    got = policy._shown({**raw, **{k: raw[k][:0] for k in ("boxes", "box_label", "area")}}, 0, 0, (1, 1))
    assert got["boxes"].shape == (0, 4)


@pytest.mark.parametrize("crop", ["random_resized", "center", "pad"])
def test_photos_of_any_size_get_the_size(crop: str) -> None:
    split = Pictures()
    for size, expected in ((None, split.size), (20, (20, 20)), ((18, 30), (18, 30))):
        policy = views("photo", crop=crop, size=size)
        for index in range(6):
            shown = policy.sample(split.raw(index), split, index, 0)
            assert shown["image"].shape == (3, *expected)
            assert shown["image"].dtype == torch.uint8


def test_photos_in_memory_keep_their_pixels() -> None:
    split = data().train
    policy = views("photo", crop="pad", padding=0, flip=0)
    batch = split.gather(torch.arange(10))
    torch.testing.assert_close(policy(batch, 0, split)["image"], batch["image"], rtol=0, atol=1e-5)
    nameless = views("photo")
    nameless.mean = None
    with pytest.raises(UserError, match="normalised"):
        nameless(batch, 0, split)


def test_scenes_in_memory_keep_masks_boxes_and_padding() -> None:
    row = {name: value[None] for name, value in blob(24, 24, (4, 6, 12, 18)).items()}
    boxes = torch.cat([row["boxes"].as_subclass(Tensor), torch.zeros(1, 2, 4)], 1)
    label = torch.tensor([[4, -1, -1]])
    mask = row["mask"].as_subclass(Tensor)
    image = (row["image"].as_subclass(Tensor) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    split = TensorSplit(image, mask=mask, boxes=boxes, box_label=label)
    batch = split.gather(torch.tensor([0]))
    still = views("dense", scale=(1.0, 1.0), flip=0)(batch, 0, split)
    assert same(still, {**batch, "image": still["image"]})
    torch.testing.assert_close(still["image"], batch["image"], rtol=0, atol=1e-5)
    flipped = views("dense", scale=(1.0, 1.0), flip=1)(batch, 0, split)
    assert flipped["boxes"][0, 0].tolist() == [12, 6, 20, 18]
    assert flipped["box_label"].tolist() == [[4, -1, -1]]
    assert torch.equal(flipped["mask"], mask.flip(-1))

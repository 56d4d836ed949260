"""Splits, views and order: pure functions of their keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import DATASETS, VIEWS
from ray_kd.data.base import MapSplit, TensorSplit
from ray_kd.data.batches import Batches, in_order
from ray_kd.data.digits import Digits
from ray_kd.data.draws import uniform
from ray_kd.data.order import epoch_order
from ray_kd.data.views import Views
from ray_kd.random_streams import forked, generator, key


def digits(**options: Any) -> Digits:
    data: Digits = DATASETS.get("digits")(parse_component(DATASETS, {"name": "digits", **options}))
    return data


def views(name: str, **options: Any) -> Views:
    made: Views = VIEWS.get(name)(parse_component(VIEWS, {"name": name, **options}))
    return made


def test_digits_are_split_without_overlap_and_stratified() -> None:
    data = digits(labels=400)
    ids = [set(split.ids.tolist()) for split in (data.train, data.validation, data.test)]
    assert not ids[0] & ids[1]
    assert not (ids[0] | ids[1]) & ids[2]
    assert len(ids[0]) == 400
    whole = digits()
    assert set(whole.train.ids.tolist()) | ids[1] | ids[2] == set(range(1797))
    for split in (data.train, data.validation, data.test):
        shares = torch.bincount(split.labels) / len(split)  # type: ignore[attr-defined]
        assert (shares - 0.1).abs().max() < 0.02
    assert data.train.images.min() >= -1  # type: ignore[attr-defined]
    assert data.train.images.max() <= 1  # type: ignore[attr-defined]


def test_validation_and_test_do_not_depend_on_the_label_budget() -> None:
    few, many = digits(labels=100), digits(labels=400)
    assert torch.equal(few.test.ids, many.test.ids)
    assert torch.equal(few.validation.ids, many.validation.ids)
    assert set(few.train.ids.tolist()) < set(many.train.ids.tolist())
    assert not torch.equal(few.test.ids, digits(labels=100, seed=1).test.ids)


@pytest.mark.parametrize("options", [{"labels": 5000}, {"validation": 0.6, "test": 0.5}])
def test_impossible_digits(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="digits"):
        digits(**options)


@pytest.mark.parametrize("name", [name for name in VIEWS.names() if not VIEWS.get(name).per_sample])
def test_a_view_is_a_function_of_seed_sample_and_view(name: str) -> None:
    data, policy = digits(labels=60), views(name)
    raw = data.train.gather(torch.arange(60))
    whole = policy.apply(raw["image"], raw["sample"], 3)
    assert whole.shape == raw["image"].shape
    torch.rand(3)  # nobody's draw matters
    order = torch.randperm(60)
    for part in order.split(7):
        alone = policy.apply(raw["image"][part], raw["sample"][part], 3)
        assert torch.equal(alone, whole[part])
    if name != "none":
        assert not torch.equal(policy.apply(raw["image"], raw["sample"], 4), whole)
        assert not torch.equal(views(name, seed=1).apply(raw["image"], raw["sample"], 3), whole)


def test_views_repeat_after_count() -> None:
    assert [views("shift", count=3).of_epoch(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    assert [views("shift").of_epoch(epoch) for epoch in range(3)] == [0, 1, 2]


def test_shift_moves_by_whole_pixels() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 1, 8, 8)
    moved = views("shift", pixels=2).apply(image, torch.arange(200), 0)
    offsets = {(int(m[0, 4, 4]) // 8 - 4, int(m[0, 4, 4]) % 8 - 4) for m in moved}
    assert offsets == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}
    one = moved[0, 0]
    row, column = int(one[4, 4]) // 8 - 4, int(one[4, 4]) % 8 - 4
    for i in range(8):
        for j in range(8):
            assert one[i, j] == min(max(i + row, 0), 7) * 8 + min(max(j + column, 0), 7)


def test_affine_at_zero_is_the_image() -> None:
    raw = digits(labels=50).train.gather(torch.arange(50))
    same = views("affine", degrees=0, scale=0, pixels=0).apply(raw["image"], raw["sample"], 1)
    torch.testing.assert_close(same, raw["image"], rtol=0, atol=1e-5)


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform(0, "x", torch.arange(20000), 5, 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert (draws.mean(0) - 0.5).abs().max() < 0.01
    assert (draws.var(0) - 1 / 12).abs().max() < 0.003
    neighbours: list[Tensor] = [
        *draws.T,
        uniform(0, "x", torch.arange(20000), 6, 1)[:, 0],
        uniform(1, "x", torch.arange(20000), 5, 1)[:, 0],
        uniform(0, "y", torch.arange(20000), 5, 1)[:, 0],
        draws[:, 0].roll(1),
    ]
    correlation = torch.corrcoef(torch.stack(neighbours)) - torch.eye(len(neighbours))
    assert correlation.abs().max() < 0.03
    assert torch.equal(uniform(0, "x", torch.tensor([7, 3]), 5, 3), draws[[7, 3]])


def test_ranks_share_the_global_batch() -> None:
    one = epoch_order(100, 20, seed=3, epoch=1)
    assert one.shape == (5, 20)
    assert sorted(one.flatten().tolist()) == list(range(100))
    two = [epoch_order(100, 20, 3, 1, rank, 2) for rank in (0, 1)]
    for step in range(5):
        together = set(two[0][step].tolist()) | set(two[1][step].tolist())
        assert together == set(one[step].tolist())
    assert not torch.equal(one, epoch_order(100, 20, 3, 2))
    assert not torch.equal(one, epoch_order(100, 20, 4, 1))
    with pytest.raises(UserError, match=r"training\.batch_size: 20 is more than the 10"):
        epoch_order(10, 20, 0, 0)


def test_batches_start_anywhere_and_carry_what_paths_need() -> None:
    data = digits(labels=70)
    batches = Batches(data.train, views("shift"), 20, seed=0, device=torch.device("cpu"))
    whole = list(batches.epoch(2))
    assert len(whole) == batches.steps == 3
    rest = list(batches.epoch(2, start=1))
    for full, late in zip(whole[1:], rest, strict=True):
        assert full.keys() == {"image", "label", "sample", "view"}
        for name in full:
            assert torch.equal(full[name], late[name])
    assert (whole[0]["view"] == 2).all()
    total = sum(
        len(batch["label"]) for rank in (0, 1) for batch in in_order(data.test, torch.device("cpu"), rank, 2)
    )
    assert total == len(data.test)


def test_anyones_dataset_is_a_split() -> None:
    pairs = [(torch.full((1, 2, 2), float(i)), i % 3) for i in range(10)]
    split, tensors = MapSplit(pairs), TensorSplit(torch.stack([p[0] for p in pairs]), torch.arange(10) % 3)
    index = torch.tensor([3, 1, 9])
    for name, value in split.gather(index).items():
        assert torch.equal(value, tensors.gather(index)[name]), name


def test_streams_are_keyed_and_leave_the_global_generator_alone() -> None:
    assert key(1, "a") != key(1, "b")
    assert key(1, "2") != key(12, "")
    assert key("1") != key(1)
    state = torch.get_rng_state()
    with forked(0, "x"):
        first = torch.rand(3)
    assert torch.equal(state, torch.get_rng_state())
    with forked(0, "x"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(torch.rand(3, generator=generator(0, "x")), first)

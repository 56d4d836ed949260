"""Search spaces whose numbers may be exactly 0, and what steps into short forms."""

from __future__ import annotations

import random

import pytest

from ray_kd.config.cells import Cell
from ray_kd.config.errors import UserError
from ray_kd.config.space import Space
from ray_kd.config.sweep import Search
from ray_kd.config.yamlio import apply_overrides, parse_yaml
from ray_kd.trials.search import CellSearch


def test_a_weight_is_zero_as_often_as_asked_for_and_else_within_its_bounds() -> None:
    space = Space(log_uniform=(0.01, 100), zero=0.25)
    drawn = [space.sample(random.Random(index)) for index in range(2000)]
    assert 0.2 < sum(value == 0 for value in drawn) / len(drawn) < 0.3
    assert all(value == 0 or 0.01 <= value <= 100 for value in drawn)
    above = sum(value > 1 for value in drawn if value)
    assert 0.4 < above / sum(value > 0 for value in drawn) < 0.6  # uniform in the logarithm
    assert space.contains(0.0)
    assert not Space(log_uniform=(0.01, 100)).contains(0.0)


def test_draws_without_zero_are_what_they_were() -> None:
    """Former candidates of a sweep are found again."""
    generator, same = random.Random(3), random.Random(3)
    assert Space(uniform=(2, 4)).sample(generator) == same.uniform(2, 4)


@pytest.mark.parametrize("zero", [-0.1, 1.0])
def test_a_chance_is_a_chance(zero: float) -> None:
    with pytest.raises(ValueError, match="zero"):
        Space(log_uniform=(0.1, 1), zero=zero)


def test_a_list_holds_its_zero_itself() -> None:
    with pytest.raises(ValueError, match="add 0 to a list of values"):
        Space(choice=(1, 2), zero=0.5)


def test_optuna_learns_that_zero_is_best() -> None:
    space = {"paths.0.weight": Space(log_uniform=(0.1, 10), zero=0.5), "optimizer.lr": Space(uniform=(0, 1))}
    spec = Search(method="optuna", trials=40, space=space)
    found = CellSearch(Cell(name="a", overrides={}), spec, "max")
    known = found.add({"paths.0.weight": 0.0, "optimizer.lr": 0.5})  # as recalled from an earlier run
    found.end(known, 1.0)
    while (candidate := found.propose(1)) is not None:
        assert found.former(candidate.overrides)
        found.end(candidate, 1.0 if candidate.overrides["paths.0.weight"] == 0 else 0.0)
    late = [one.overrides["paths.0.weight"] == 0 for one in found.candidates[20:]]
    assert sum(late) > 0.75 * len(late)


def test_merge_keys_of_yaml_may_be_replaced_and_other_keys_may_not_repeat() -> None:
    text = "a: &a {paths: [nst], aggregation: equal}\nb: {<<: *a, aggregation: gcs}"
    assert parse_yaml(text, "here")["b"] == {"paths": ["nst"], "aggregation": "gcs"}
    with pytest.raises(UserError, match="'x' twice"):
        parse_yaml("a: &a {y: 1}\nb: {<<: *a, x: 1, x: 2}", "here")


def test_an_override_steps_into_the_short_form_of_a_path() -> None:
    data = {"paths": ["soft_target", {"name": "nst"}]}
    changed = apply_overrides(data, ["paths.0.weight=2"])
    assert changed["paths"] == [{"name": "soft_target", "weight": 2}, {"name": "nst"}]
    assert data["paths"][0] == "soft_target"

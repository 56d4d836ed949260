"""Shapley values and leave-one-out: the axioms, closed forms, and the definition by orders."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from ray_kd.statistics.attribution import leave_one_out, shapley, subsets

Game = dict[frozenset[str], float]


def game(members: str, value: Callable[[frozenset[str]], float]) -> Game:
    return {subset: value(subset) for subset in subsets(members)}


def random_game(members: str, seed: int) -> Game:
    draw = np.random.default_rng(seed)
    return game(members, lambda _: float(draw.normal(0.9, 0.02)))


@pytest.mark.parametrize("members", ["a", "ab", "abcd", "abcdef"])
def test_values_add_up_to_what_all_gain_over_none(members: str) -> None:
    worths = random_game(members, 3)
    total = worths[frozenset(members)] - worths[frozenset()]
    assert math.fsum(shapley(worths).values()) == pytest.approx(total, abs=1e-12)


def test_it_is_the_mean_over_all_orders_of_joining() -> None:
    worths = random_game("abcd", 5)
    gains: dict[str, list[float]] = {one: [] for one in "abcd"}
    for order in itertools.permutations("abcd"):
        for place, one in enumerate(order):
            before = frozenset(order[:place])
            gains[one].append(worths[before | {one}] - worths[before])
    assert shapley(worths) == pytest.approx({one: np.mean(found) for one, found in gains.items()})


def test_members_that_are_alike_get_equal_parts() -> None:
    worths = game("abc", lambda subset: float(len(subset & {"a", "b"}) ** 2 + 3 * ("c" in subset)))
    found = shapley(worths)
    assert found["a"] == pytest.approx(found["b"]) == pytest.approx(2.0)
    assert found["c"] == pytest.approx(3.0)


def test_one_that_adds_nothing_is_worth_exactly_0() -> None:
    base = random_game("abc", 7)
    worths = game("abcd", lambda subset: base[subset - {"d"}])
    assert (shapley(worths)["d"], leave_one_out(worths)["d"]) == (0.0, 0.0)


def test_gains_that_cancel_are_exactly_0() -> None:
    worths = {frozenset(): 0.8, frozenset("a"): 0.7, frozenset("b"): 0.9, frozenset("ab"): 0.9 + (0.8 - 0.7)}
    assert shapley(worths)["a"] == 0.0


def test_values_of_sums_are_sums_of_values() -> None:
    one, other = random_game("abcd", 1), random_game("abcd", 2)
    both = {subset: 2 * one[subset] - other[subset] for subset in one}
    expected = {name: 2 * shapley(one)[name] - shapley(other)[name] for name in "abcd"}
    assert shapley(both) == pytest.approx(expected)


def test_two_paths_that_say_the_same_share_their_worth_and_neither_is_missed() -> None:
    worths = game("ab", lambda subset: 1.0 if subset else 0.0)
    assert shapley(worths) == pytest.approx({"a": 0.5, "b": 0.5})
    assert leave_one_out(worths) == {"a": 0.0, "b": 0.0}


def test_without_interactions_both_are_each_ones_own_part() -> None:
    parts = {"a": 0.1, "b": -0.05, "c": 0.02}
    worths = game("abc", lambda subset: 0.8 + sum(parts[one] for one in subset))
    assert shapley(worths) == pytest.approx(parts)
    assert leave_one_out(worths) == pytest.approx(parts)


@pytest.mark.parametrize("value", [shapley, leave_one_out])
def test_a_missing_subset_is_named(value: Callable[[Game], dict[str, float]]) -> None:
    worths = random_game("abc", 0)
    del worths[frozenset("ac")]
    with pytest.raises(ValueError, match=r"no value of the subset \['a', 'c'\]"):
        value(worths)

"""Who may be on the front of a metric and its costs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_kd.statistics.front import beaten_by

SEEDS = range(8)


def noisy(mean: float, spread: float, seed: int) -> dict[int, float]:
    draws = np.random.default_rng(seed).normal(size=len(SEEDS))
    draws = (draws - draws.mean()) / draws.std(ddof=1)
    return {number: mean + spread * float(draw) for number, draw in zip(SEEDS, draws, strict=True)}


def known(cost: float) -> dict[int, float]:
    return dict.fromkeys(SEEDS, cost)


def test_worse_and_dearer_is_beaten_and_a_trade_off_is_not() -> None:
    values = {"cheap": noisy(0.8, 0.01, 0), "dear": noisy(0.9, 0.01, 1), "waste": noisy(0.7, 0.01, 2)}
    seconds = {"cheap": [noisy(10, 0.5, 3)], "dear": [noisy(20, 0.5, 4)], "waste": [noisy(30, 0.5, 5)]}
    assert beaten_by(values, seconds) == {"cheap": (), "dear": (), "waste": ("cheap", "dear")}


def test_a_mean_alone_beats_nothing() -> None:
    """Neither in the metric nor in seconds."""
    values = {"one": noisy(0.80, 0.05, 0), "other": noisy(0.81, 0.05, 1)}
    clear = {"one": [noisy(20, 0.5, 2)], "other": [noisy(10, 0.5, 3)]}
    assert beaten_by(values, clear) == {"one": (), "other": ()}
    values = {"one": noisy(0.7, 0.01, 0), "other": noisy(0.9, 0.01, 1)}
    vague = {"one": [noisy(12, 8, 2)], "other": [noisy(11, 8, 3)]}
    assert beaten_by(values, vague) == {"one": (), "other": ()}
    assert beaten_by(values, clear) == {"one": ("other",), "other": ()}


def test_known_costs_are_compared_as_they_are() -> None:
    values = {"one": noisy(0.7, 0.01, 0), "other": noisy(0.9, 0.01, 1)}
    assert beaten_by(values, {"one": [known(100)], "other": [known(100)]})["one"] == ("other",)
    assert beaten_by(values, {"one": [known(100)], "other": [known(101)]})["one"] == ()
    both = {"one": [known(100), noisy(20, 0.5, 2)], "other": [known(101), noisy(10, 0.5, 3)]}
    assert beaten_by(values, both)["one"] == ()


def test_a_loss_is_better_where_it_is_lower() -> None:
    values = {"one": noisy(0.7, 0.01, 0), "other": noisy(0.9, 0.01, 1)}
    costs = {"one": [known(1)], "other": [known(1)]}
    assert beaten_by(values, costs, higher_is_better=False) == {"one": (), "other": ("one",)}


def test_one_seed_and_equal_differences_say_nothing() -> None:
    one_seed = {"one": {0: 0.7}, "other": {0: 0.9}}
    assert beaten_by(one_seed, {"one": [{0: 2.0}], "other": [{0: 1.0}]}) == {"one": (), "other": ()}
    base = noisy(0.7, 0.01, 0)
    values = {"one": base, "other": {seed: value + 0.1 for seed, value in base.items()}}
    assert beaten_by(values, {"one": [known(1)], "other": [known(1)]}) == {"one": (), "other": ()}


def test_overlapping_splits_make_it_harder() -> None:
    values = {"one": noisy(0.80, 0.01, 0), "other": noisy(0.82, 0.01, 1)}
    costs = {"one": [known(1)], "other": [known(1)]}
    assert beaten_by(values, costs)["one"] == ("other",)
    assert beaten_by(values, costs, overlap=5.0)["one"] == ()


def test_the_front_is_kept_whole_in_nineteen_of_twenty_sweeps() -> None:
    """Six strategies of equal means and equal costs: all are on the front."""
    random, sweeps = np.random.default_rng(1), 400
    broken = 0
    for _ in range(sweeps):
        values = {str(one): dict(enumerate(random.normal(0.8, 0.01, size=6))) for one in range(6)}
        costs = {one: [dict.fromkeys(range(6), 1.0)] for one in values}
        broken += any(beaten_by(values, costs).values())
    assert broken / sweeps <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / sweeps)


def test_seeds_that_are_not_the_same_are_refused() -> None:
    values = {"one": {0: 0.7, 1: 0.7}, "other": {0: 0.9}}
    with pytest.raises(ValueError, match="expected the same everywhere"):
        beaten_by(values, {"one": [{0: 1.0, 1: 1.0}], "other": [{0: 1.0}]})

"""The standard deviation's interval, and intervals of values whose splits overlap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_kd.statistics.intervals import interval, paired
from ray_kd.statistics.spread import spread

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda random, n: random.normal(size=n), 1.0),
        (lambda random, n: random.uniform(size=n), math.sqrt(1 / 12)),
        (lambda random, n: random.laplace(size=n), math.sqrt(2)),
    ],
    ids=["normal", "uniform", "laplace"],
)
def test_its_interval_holds_the_truth_about_as_often_as_it_says(draw: Draw, truth: float, n: int) -> None:
    random = np.random.default_rng(0)
    found = [spread(draw(random, n).tolist()) for _ in range(1000)]
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.89


def test_a_spread_knows_no_unit_and_no_zero() -> None:
    values = np.random.default_rng(1).normal(size=12)
    one, scaled, moved = (spread(found.tolist()) for found in (values, 7 * values, values + 3))
    assert one.value == pytest.approx(np.std(values, ddof=1))
    assert (scaled.low, scaled.high) == pytest.approx((7 * one.low, 7 * one.high))
    assert (moved.low, moved.high) == pytest.approx((one.low, one.high))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 3.0, 4.0], [0.5] * 8])
def test_too_few_or_equal_values_have_no_bounds(values: list[float]) -> None:
    found = spread(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.n == len(values)


def test_an_overlap_of_splits_widens_intervals_as_nadeau_and_bengio_say() -> None:
    values = {seed: float(value) for seed, value in enumerate(np.random.default_rng(2).normal(size=9))}
    plain, wide = interval(list(values.values())), interval(list(values.values()), overlap=0.6)
    assert wide.mean == plain.mean
    assert wide.half_width == pytest.approx(plain.half_width * math.sqrt((1 / 9 + 0.6) / (1 / 9)))
    zero = dict.fromkeys(values, 0.0)
    assert paired(values, zero, overlap=0.6) == wide

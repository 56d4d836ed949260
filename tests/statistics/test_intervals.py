"""Intervals against scipy, hand computation, and their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from ray_kd.statistics.intervals import interval, paired


def random_cells(seed: int, n: int) -> tuple[dict[int, float], dict[int, float]]:
    generator = np.random.default_rng(seed)
    baseline = 0.9 + 0.01 * generator.standard_normal(n)
    cell = baseline + 0.004 + 0.005 * generator.standard_normal(n)
    return dict(enumerate(cell.tolist())), dict(enumerate(baseline.tolist()))


def test_interval_of_one_to_five_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)  # t of 4 degrees of freedom at 97.5 %
    assert (found.mean, found.n) == (3.0, 5)
    assert found.half_width == pytest.approx(half, rel=1e-7)
    assert (found.low + found.high) / 2 == pytest.approx(3.0)


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_interval_equals_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.02, n)
    low, high = reference.t.interval(0.95, n - 1, loc=values.mean(), scale=reference.sem(values))
    found = interval(values.tolist())
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-10)


def test_intervals_of_few_or_equal_values() -> None:
    assert interval([]).n == 0
    assert math.isnan(interval([]).mean)
    one = interval([0.5])
    assert one.mean == 0.5
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    same = interval([0.5, 0.5, 0.5])
    assert (same.low, same.mean, same.high) == (0.5, 0.5, 0.5)


def test_interval_does_not_depend_on_order_to_the_last_bit() -> None:
    values = np.random.default_rng(0).random(7)
    found = {interval(np.random.default_rng(i).permutation(values).tolist()) for i in range(20)}
    assert len(found) == 1


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_a_paired_interval_equals_scipys(n: int) -> None:
    cell, baseline = random_cells(n, n)
    expected = reference.ttest_rel(list(cell.values()), list(baseline.values()))
    low, high = expected.confidence_interval(0.95)
    found = paired(cell, baseline)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)


def test_pairs_are_matched_by_seed_whatever_the_order() -> None:
    cell, baseline = random_cells(1, 6)
    backwards = dict(reversed(baseline.items()))
    assert paired(cell, baseline) == paired(cell, backwards)


def test_seeds_of_one_side_only_do_not_count() -> None:
    cell, baseline = random_cells(2, 5)
    more = {**cell, 77: 0.1}
    fewer = {**baseline, 88: 0.99}
    assert paired(more, fewer) == paired(cell, baseline)


def test_exchanging_the_sides_flips_the_difference() -> None:
    cell, baseline = random_cells(3, 5)
    one, other = paired(cell, baseline), paired(baseline, cell)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high)


def test_equal_cells_have_an_interval_of_nothing() -> None:
    cell, _ = random_cells(4, 5)
    found = paired(cell, cell)
    assert (found.low, found.mean, found.high) == (0.0, 0.0, 0.0)


def test_one_same_difference_on_every_seed_is_no_certainty() -> None:
    """scipy calls this p = 0; it is what quantised accuracies of few seeds look like."""
    _, baseline = random_cells(5, 5)
    found = paired({seed: value + 0.0125 for seed, value in baseline.items()}, baseline)
    assert found.mean == pytest.approx(0.0125)
    assert math.isnan(found.low)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_pairs_have_no_bounds(n: int) -> None:
    cell, baseline = random_cells(6, 5)
    found = paired(dict(list(cell.items())[:n]), baseline)
    assert found.n == n
    assert math.isnan(found.low)

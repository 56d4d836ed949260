"""Intervals that are longer on the side of the longer tail, beside Student's and Johnson's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics import skewness


def _skewed(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_gamma(2, n)


@pytest.mark.parametrize("n", [4, 10, 40])
def test_one_end_is_students_and_the_other_johnsons(n: int) -> None:
    values = _skewed(n, n)
    found = skewness.interval(values, 0.05)
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    skew = stats.skew(values, bias=False) * (1 + 6 / n)
    t = stats.t.isf(0.025, n - 1)
    johnson = values.std(ddof=1) * abs(skew) * (t**2 / 3 + 1 / 6) / n
    longer = min((high - low) / 2, johnson)
    assert found.low == pytest.approx(low - (longer if skew < 0 else 0), rel=1e-9)
    assert found.high == pytest.approx(high + (longer if skew > 0 else 0), rel=1e-9)


def test_symmetric_values_have_students_interval() -> None:
    values = [-3.0, -1.0, 0.0, 1.0, 3.0]
    found = skewness.interval(values, 0.01)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.99, 4, 0, stats.sem(values)))
    assert skewness.p_value(np.add(values, 2.0)) == pytest.approx(
        stats.ttest_1samp(np.add(values, 2.0), 0).pvalue
    )


def test_two_values_have_no_skewness() -> None:
    assert skewness.coefficient([0.0, 5.0]) == 0.0
    found = skewness.interval([0.0, 5.0], 0.05)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("offset", [-3.0, -0.8, 0.2, 1.5])
@pytest.mark.parametrize("n", [3, 7, 25])
def test_the_p_value_is_the_error_at_which_an_end_is_zero(n: int, offset: float, sign: int) -> None:
    values = sign * (_skewed(n, n) - 2) + offset
    p = skewness.p_value(values)
    if p < 1:
        found = skewness.interval(values, p)
        assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=1e-9)
    for error in (0.2, 0.05, 1e-4):
        found = skewness.interval(values, error)
        assert (found.low > 0 or found.high < 0) == (p < error)


def test_intervals_shift_scale_and_mirror_with_their_values() -> None:
    values = _skewed(1, 12)
    plain = skewness.interval(values, 0.01)
    moved = skewness.interval(3 * values + 7, 0.01)
    assert (moved.low, moved.high) == pytest.approx((3 * plain.low + 7, 3 * plain.high + 7))
    mirrored = skewness.interval(-values, 0.01)
    assert (mirrored.low, mirrored.high) == pytest.approx((-plain.high, -plain.low))
    shuffled = np.random.default_rng(0).permutation(values)
    assert skewness.interval(shuffled, 0.01) == plain
    assert skewness.p_value(shuffled) == skewness.p_value(values)


def test_a_smaller_error_has_a_longer_interval() -> None:
    values = _skewed(3, 9)
    widths = [skewness.interval(values, error).half_width for error in (0.2, 0.05, 0.01, 1e-5)]
    assert widths == sorted(widths)


def test_skewness_of_gamma_values_is_right_on_average() -> None:
    generator = np.random.default_rng(0)
    for n in (10, 40):
        found = [skewness.coefficient(generator.standard_gamma(4, n)) for _ in range(300)]
        assert np.mean(found) == pytest.approx(1.0, abs=0.3)  # six standard errors at n = 10, and its bias


def test_values_are_skewed_when_they_are_for_sure() -> None:
    assert skewness.skewed([0.0] * 3 + [1e-3, -1e-3] * 5 + [5.0])
    assert not skewness.skewed([-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0])
    assert not skewness.skewed([0.0, 0.0, 0.0, 9.0])  # too few to tell
    assert not skewness.skewed([1.0] * 10)
    normal = [skewness.skewed(np.random.default_rng(seed).normal(size=20)) for seed in range(100)]
    assert sum(normal) <= stats.binom.isf(1e-6, 100, 0.02)
    assert math.isfinite(skewness.coefficient([0.0, 0.0, 1.0]))

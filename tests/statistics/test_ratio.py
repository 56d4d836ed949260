"""Fieller's interval against simulation and the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics import skewness
from ray_kd.statistics.ratio import ratio


def test_for_values_without_skewness_it_is_the_closed_form() -> None:
    base = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    above, below = 1.0 + 0.3 * base, 4.0 + 0.3 * base
    found = ratio(above.tolist(), below.tolist(), error=0.05)
    t, n = stats.t.isf(0.025, 4), len(base)
    (va, vab), (_, vb) = np.cov(above, below) / n
    a, b = below.mean() ** 2 - t**2 * vb, above.mean() * below.mean() - t**2 * vab
    root = math.sqrt(b**2 - a * (above.mean() ** 2 - t**2 * va))
    assert (found.low, found.high) == pytest.approx(((b - root) / a, (b + root) / a), rel=1e-6)


def test_it_excludes_0_exactly_where_the_interval_of_the_upper_values_does() -> None:
    draw = np.random.default_rng(0)
    for _ in range(30):
        above, below = draw.exponential(1.0, 6) - draw.uniform(0, 1), draw.normal(5, 1, 6)
        found, own = ratio(above.tolist(), below.tolist(), 0.05), skewness.interval(above, 0.05)
        assert not math.isnan(found.low)
        assert (found.low <= 0 <= found.high) is (own.low <= 0 <= own.high)
        assert found.low <= found.mean <= found.high


@pytest.mark.outcome
def test_it_holds_the_true_ratio_though_the_gap_is_uncertain(seed_shift: int) -> None:
    draw, held = np.random.default_rng(seed_shift), []
    for _ in range(150):
        shared = draw.normal(0, 1, 8)
        found = ratio(2 + draw.normal(0, 1, 8) + shared, 4 + draw.normal(0, 1, 8) + shared, 0.05)
        held.append(math.isnan(found.low) or found.low <= 0.5 <= found.high)
    assert sum(held) >= stats.binom.ppf(1e-6, 150, 0.95)


def test_a_gap_that_might_be_0_gives_no_bounds() -> None:
    for below in ([1.0, -1.0, 0.1, 0.2], [0.0] * 4):
        found = ratio([1.0, 2.0, 1.5, 1.2], below, 0.05)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert math.isnan(ratio([1.0], [2.0], 0.05).low)
    assert math.isnan(ratio([], [], 0.05).mean)

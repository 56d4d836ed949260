"""Ratios of means: Fieller's interval against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ray_kd.statistics.ratio import ratio


def pairs(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    below = 0.08 + 0.004 * generator.standard_normal(n)
    return 0.4 * below + 0.01 * generator.standard_normal(n), below


@pytest.mark.parametrize("n", [5, 8, 12])
@pytest.mark.parametrize("error", [0.05, 0.05 / 16])
def test_its_ends_are_where_the_paired_test_of_the_ratio_has_that_error(n: int, error: float) -> None:
    above, below = pairs(n, n)
    found = ratio(above.tolist(), below.tolist(), error)
    assert found.mean == pytest.approx(above.mean() / below.mean())
    for end in (found.low, found.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(error)
    assert found.low < found.mean < found.high


@pytest.mark.parametrize("seed", range(30))
def test_it_includes_0_exactly_where_the_numerators_interval_does(seed: int) -> None:
    above, below = pairs(seed, 6)
    found = ratio(above.tolist(), below.tolist(), 0.01)
    assert (found.low <= 0 <= found.high) is bool(stats.ttest_1samp(above, 0).pvalue >= 0.01)


def test_without_spread_without_pairs_and_with_a_gap_that_may_be_0_there_are_no_bounds() -> None:
    for above, below in (([0.1], [0.2]), ([0.1, 0.1], [0.2, 0.2]), ([0.1, 0.2], [0.5, -0.2])):
        found = ratio(above, below, 0.05)
        assert found.mean == pytest.approx(np.mean(above) / np.mean(below))
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert math.isnan(ratio([], [], 0.05).mean)

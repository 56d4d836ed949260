"""Intervals of a mean that hold for skewed values too, on plain numbers.

Student's interval is too short on the side of the longer tail: where values are skewed to the right, a sample
with a low mean has a low standard deviation too. Johnson ("Modified t tests and confidence intervals for
asymmetrical populations", JASA 73, 1978, 536-544) moves the interval of n values by s g (t^2 / 3 + 1/6) / n,
where g is the skewness, s the standard deviation and t Student's quantile. Deviations from it, found by
simulation (benchmarks/coverage.py shows what they hold): only the end on the side of the longer tail moves,
so that no interval is shorter than Student's; it moves at most by Student's half-width, as with few values
and a large t the formula moves it absurdly far; and the skewness is corrected for the number of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ray_kd.statistics.intervals import Interval

SMALL_SAMPLE = 6.0
"""The sample skewness G1 of n gamma values is on average about n / (n + 6) of the true one."""
SURE = 0.01
"""Error of the test that finds values skewed."""
TESTABLE = 8
"""Values that the test needs."""

Numbers = NDArray[np.float64]


def coefficient(values: Sequence[float] | Numbers) -> float:
    """G1 (Joanes and Gill, The Statistician 47, 1998), times 1 + 6/n; 0 for fewer than three values.

    The values must not all be equal.
    """
    n = len(values)
    if n < 3:
        return 0.0
    return float(stats.skew(np.sort(values), bias=False)) * (1 + SMALL_SAMPLE / n)


def skewed(values: Sequence[float] | Numbers) -> bool:
    """Whether the values are skewed for sure (D'Agostino's test, Biometrika 57, 1970, at an error of 1 %).

    Fewer than eight values never are, nor are equal ones.
    """
    if len(values) < TESTABLE or np.ptp(values) == 0:
        return False
    return bool(stats.skewtest(np.sort(values)).pvalue < SURE)


def interval(values: Sequence[float] | Numbers, error: float, overlap: float = 0.0) -> Interval:
    """The mean's interval at a two-sided error; needs two values, not all equal.

    Args:
        overlap: see ``statistics.intervals.interval``.

    >>> found = interval([0.0, 0.1, 0.2, 1.5], error=0.05)
    >>> found.high - found.mean > found.mean - found.low
    True
    """
    mean, spread, n = _moments(values)
    width = float(stats.t.isf(error / 2, n - 1)) * math.sqrt(1 / n + overlap)
    skew = coefficient(values)
    longer = min(width, abs(skew) * (width**2 / 3 + 1 / (6 * n)))
    low = mean - spread * (width + (longer if skew < 0 else 0))
    high = mean + spread * (width + (longer if skew > 0 else 0))
    return Interval(mean, low, high, n)


def p_value(values: Sequence[float] | Numbers, overlap: float = 0.0) -> float:
    """The smallest error at which :func:`interval` excludes 0."""
    mean, spread, n = _moments(values)
    skew, distance = coefficient(values), abs(mean) / spread
    width = distance
    if skew * mean < 0:  # the end towards 0 is moved: solve width + longer = distance for the width
        rest = max(0.0, distance - abs(skew) / (6 * n))
        width = max(distance / 2, 2 * rest / (1 + math.sqrt(1 + 4 * abs(skew) * rest / 3)))
    return float(2 * stats.t.sf(width / math.sqrt(1 / n + overlap), n - 1))


def _moments(values: Sequence[float] | Numbers) -> tuple[float, float, int]:
    array = np.sort(np.asarray(values, dtype=np.float64))  # sorted: the sum's rounding has one order
    return float(array.mean()), float(array.std(ddof=1)), len(array)

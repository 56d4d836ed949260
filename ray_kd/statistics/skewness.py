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
from scipy import special

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
    return float(_coefficients(np.sort(np.asarray(values, dtype=np.float64))))


def skewed(values: Sequence[float] | Numbers) -> bool:
    """Whether the values are skewed for sure (D'Agostino's test, Biometrika 57, 1970, at an error of 1 %).

    Fewer than eight values never are, nor are equal ones.
    """
    if len(values) < TESTABLE or np.ptp(values) == 0:
        return False
    from scipy import stats  # takes half a second, and few values need it

    return bool(stats.skewtest(np.sort(values)).pvalue < SURE)


def interval(values: Sequence[float] | Numbers, error: float, overlap: float = 0.0) -> Interval:
    """The mean's interval at a two-sided error; needs two values, not all equal.

    Args:
        overlap: see ``statistics.intervals.interval``.

    >>> found = interval([0.0, 0.1, 0.2, 1.5], error=0.05)
    >>> found.high - found.mean > found.mean - found.low
    True
    """
    array = np.sort(np.asarray(values, dtype=np.float64))  # sorted: the sum's rounding has one order
    low, high = bounds(array, error, overlap)
    return Interval(float(array.mean()), float(low), float(high), len(array))


def bounds(values: Numbers, error: float, overlap: float = 0.0) -> tuple[Numbers, Numbers]:
    """Both ends of :func:`interval` for samples along the last axis, each of them sorted."""
    n = values.shape[-1]
    mean, spread, skew = values.mean(axis=-1), values.std(axis=-1, ddof=1), _coefficients(values)
    width = -float(special.stdtrit(n - 1, error / 2)) * math.sqrt(1 / n + overlap)
    longer = np.minimum(width, np.abs(skew) * (width**2 / 3 + 1 / (6 * n)))
    low = mean - spread * (width + np.where(skew < 0, longer, 0.0))
    high = mean + spread * (width + np.where(skew > 0, longer, 0.0))
    return low, high


def p_value(values: Sequence[float] | Numbers, overlap: float = 0.0) -> float:
    """The smallest error at which :func:`interval` excludes 0."""
    mean, spread, n = _moments(values)
    skew, distance = coefficient(values), abs(mean) / spread
    width = distance
    if skew * mean < 0:  # the end towards 0 is moved: solve width + longer = distance for the width
        rest = max(0.0, distance - abs(skew) / (6 * n))
        width = max(distance / 2, 2 * rest / (1 + math.sqrt(1 + 4 * abs(skew) * rest / 3)))
    return float(2 * special.stdtr(n - 1, -width / math.sqrt(1 / n + overlap)))


def _moments(values: Sequence[float] | Numbers) -> tuple[float, float, int]:
    array = np.sort(np.asarray(values, dtype=np.float64))  # sorted: the sum's rounding has one order
    return float(array.mean()), float(array.std(ddof=1)), len(array)


def _coefficients(values: Numbers) -> Numbers:
    """``coefficient`` for samples along the last axis, each of them sorted."""
    n = values.shape[-1]
    if n < 3:
        return np.zeros(values.shape[:-1])
    away = values - values.mean(axis=-1, keepdims=True)
    square = away**2
    m2, m3 = square.mean(axis=-1), (square * away).mean(axis=-1)
    found: Numbers = ((n - 1.0) * n) ** 0.5 / (n - 2.0) * m3 / m2**1.5 * (1 + SMALL_SAMPLE / n)
    return found

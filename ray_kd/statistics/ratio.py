"""Ratios of means with Fieller's interval, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from ray_kd.statistics.intervals import Interval


def ratio(numerators: Sequence[float], denominators: Sequence[float], error: float) -> Interval:
    """mean(numerators) / mean(denominators) over pairs, with its interval.

    The interval is Fieller's (JRSS B 16, 1954): all r for which the paired t-interval of numerator - r times
    denominator includes 0. So it includes 0 exactly where the t-interval of the numerators does. There are no
    bounds where the denominators may be 0 at this error, or where nothing varies.

    Args:
        error: two-sided, 0.05 for an interval of 95 %.
    """
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    n = len(above)
    if n == 0 or below.sum() == 0:
        return Interval(math.nan, math.nan, math.nan, n)
    value = float(above.mean() / below.mean())
    nothing = Interval(value, math.nan, math.nan, n)
    if n == 1:
        return nothing
    (var_above, both), (_, var_below) = np.cov(above, below, ddof=1)
    g = float(stats.t.isf(error / 2, n - 1)) ** 2 / n
    a, b, c = (
        below.mean() ** 2 - g * var_below,
        above.mean() * below.mean() - g * both,
        above.mean() ** 2 - g * var_above,
    )
    root = b**2 - a * c
    if a <= 0 or root <= 0:
        return nothing
    return Interval(value, float((b - math.sqrt(root)) / a), float((b + math.sqrt(root)) / a), n)

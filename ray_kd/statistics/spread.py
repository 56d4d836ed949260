"""The standard deviation of a few values, with an interval that does not ask for normal ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ray_kd.statistics.intervals import CONFIDENCE, ROUNDING


@dataclass(frozen=True)
class Spread:
    """A standard deviation and its confidence interval; the bounds are nan where the numbers allow none."""

    value: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float], confidence: float = CONFIDENCE) -> Spread:
    """Standard deviation with Bonett's interval (Computational Statistics & Data Analysis 50, 2006).

    The interval by chi-square is wrong at any n for values with heavier or lighter tails than normal ones.
    This one takes the logarithm of the variance as normal, with a standard error from the kurtosis of the
    values about a trimmed mean. No bounds for fewer than five values, or values that are all equal.

    Example:
        >>> found = spread([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> found.low < found.value < found.high
        True
    """
    array, n = np.sort(np.asarray(values, dtype=np.float64)), len(values)
    if n < 2:
        return Spread(math.nan, math.nan, math.nan, n)
    equal = np.ptp(array) <= ROUNDING * np.abs(array).max()
    value = 0.0 if equal else float(array.std(ddof=1))
    if n < 5 or equal:
        return Spread(value, math.nan, math.nan, n)
    z = float(stats.norm.isf((1 - confidence) / 2))
    factor = n / (n - z)
    centre = stats.trim_mean(array, 1 / (2 * math.sqrt(n - 4)) if n > 5 else 0.4)
    kurtosis = n * ((array - centre) ** 4).sum() / ((array - array.mean()) ** 2).sum() ** 2
    error = factor * math.sqrt((kurtosis - (n - 3) / n) / (n - 1))
    middle = math.log(factor * value**2)
    low, high = (math.exp((middle + side * z * error) / 2) for side in (-1, 1))
    return Spread(value, low, high, n)

"""Intervals and paired differences, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the bounds are nan where the numbers allow none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Distance from the mean to either bound (a t-interval is symmetric); nan without an interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Paired:
    """Differences to a baseline on the seeds that both have, and the two-sided paired t-test of mean 0."""

    difference: Interval
    p: float
    """nan with fewer than two pairs; 1 where all differences are equal, where a t-test is undefined."""
    constant: bool = False
    """All differences are equal."""


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean and Student's t-interval; no bounds for fewer than two values, nan without any."""
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    array = np.sort(np.asarray(values, dtype=np.float64))  # sorted: the sum's rounding has one order
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * array.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Paired:
    """Compare two cells by seed; seeds that only one of them has do not count.

    Equal differences on every seed (accuracies of few test samples do that) have no variance: the
    t-statistic is 0/0 or infinite. p is then 1, the cautious reading, and unless they are all 0 there is
    no interval. Deviation from ``scipy.stats.ttest_rel``, which gives nan or 0 there.
    """
    seeds = sorted(set(values) & set(baseline))
    differences = np.sort(np.array([values[seed] - baseline[seed] for seed in seeds], dtype=np.float64))
    whole = interval(differences.tolist(), confidence)
    if len(seeds) < 2:
        return Paired(whole, math.nan)
    scale = max(abs(value) for cell in (values, baseline) for value in (cell[seed] for seed in seeds))
    if np.ptp(differences) <= 1e-12 * scale:
        bound = 0.0 if abs(whole.mean) <= 1e-12 * scale else math.nan
        return Paired(Interval(whole.mean, bound, bound, whole.n), 1.0, constant=True)
    t = whole.mean / (differences.std(ddof=1) / math.sqrt(len(seeds)))
    return Paired(whole, float(2 * stats.t.sf(abs(t), len(seeds) - 1)))

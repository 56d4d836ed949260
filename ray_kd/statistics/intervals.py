"""Intervals and paired differences, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

CONFIDENCE = 0.95
ALPHA = 0.05
ROUNDING = 1e-12
"""Differences that differ by less, as a share of the values, are equal."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the bounds are nan where the numbers allow none."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the width: of a t-interval, the distance from the mean to its bounds; nan without bounds."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float], confidence: float = CONFIDENCE, overlap: float = 0.0) -> Interval:
    """Mean and Student's t-interval; no bounds for fewer than two values, nan without any.

    Args:
        overlap: samples that test for each that trains, where each value has a random split of its own of the
            same samples, else 0. Such values are correlated, and the variance of their mean is
            (1/n + overlap) s² instead of s²/n (Nadeau and Bengio, Machine Learning 52, 2003, section 3).
    """
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    array = np.sort(np.asarray(values, dtype=np.float64))  # sorted: the sum's rounding has one order
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    error = array.std(ddof=1) * math.sqrt(1 / n + overlap)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2) * error)
    return Interval(mean, mean - half, mean + half, n)


def paired(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    confidence: float = CONFIDENCE,
    overlap: float = 0.0,
) -> Interval:
    """The mean difference of two cells on the seeds that both have. ``overlap``: see ``interval``.

    Equal differences on every seed (accuracies of few test samples do that) have no variance to judge by:
    unless all are 0 there is no interval. Deviation from ``scipy.stats.ttest_rel``, which is certain there.
    """
    found = differences(values, baseline)
    whole = interval(found.tolist(), confidence, overlap)
    if len(found) > 1 and equal(found, values, baseline):
        bound = 0.0 if equal(np.append(found, 0.0), values, baseline) else math.nan
        return Interval(whole.mean, bound, bound, whole.n)
    return whole


def differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> Numbers:
    """values - baseline on the seeds that both have, sorted, so that sums over them have one rounding."""
    return np.sort([values[seed] - baseline[seed] for seed in set(values) & set(baseline)])


def equal(found: Numbers, values: Mapping[int, float], baseline: Mapping[int, float]) -> bool:
    """Whether differences are equal but for the rounding of the values they are taken from."""
    scale = max(abs(cell[seed]) for cell in (values, baseline) for seed in set(values) & set(baseline))
    return bool(np.ptp(found) <= ROUNDING * scale)

"""Ratios of means with bootstrap intervals, on plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kd.statistics.intervals import CONFIDENCE

DRAWS = 20_000
"""Random resamples, where there are too many to take all."""
ALL_UP_TO = 5
"""Pairs up to which every one of the n^n resamples is taken, 3,125 at most."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval; nan where there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    """Pairs in it."""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[Ratio, Numbers]:
    """mean(numerators) / mean(denominators) over pairs, and the same of every resample of the pairs.

    The interval is the bootstrap's percentile interval (Efron, Annals of Statistics 7, 1979): pairs are drawn
    with replacement, numerator and denominator together. Up to five pairs all resamples are taken, so it is
    exact; with three its ends are the most extreme pairs. With few pairs it is too narrow on average.
    """
    above, below = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    n = len(above)
    if n == 0 or below.sum() == 0:
        return Ratio(n=n), np.empty(0)
    value = float(above.sum() / below.sum())
    if n == 1:
        return Ratio(value, n=1), np.array([value])
    chosen = _resamples(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled: Numbers = above[chosen].sum(axis=1) / below[chosen].sum(axis=1)
    return Ratio(value, *_ends(resampled), n), resampled


def mean_of(ratios: Sequence[tuple[Ratio, Numbers]]) -> Ratio:
    """The mean of independent ratios; each ratio is resampled separately."""
    if not ratios or not all(found.known for found, _ in ratios):
        return Ratio()
    generator = np.random.default_rng(0)
    draws = [resampled[generator.integers(len(resampled), size=DRAWS)] for _, resampled in ratios]
    value = float(np.mean([found.value for found, _ in ratios]))
    smallest = min(found.n for found, _ in ratios)
    return Ratio(value, *_ends(np.mean(draws, axis=0)), smallest)


def _resamples(n: int) -> NDArray[np.int64]:
    """Rows of n indices: all resamples, or a fixed random choice of them."""
    if n <= ALL_UP_TO:
        return np.array(list(itertools.product(range(n), repeat=n)), dtype=np.int64)
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


def _ends(values: Numbers) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)

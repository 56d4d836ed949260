"""What a design of looks can find, before it runs, on plain numbers.

All figures are for normal differences and for the last look, which has the most seeds and the largest error.
They leave out that earlier looks may decide too, which adds a little, and that hopeless strategies are
stopped, which takes a little away; benchmarks/coverage.py shows what derived designs really find.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from ray_kd.statistics import skewness
from ray_kd.statistics.looks import Looks

POWER = 0.8
FRACTIONS = (0.125, 0.25, 0.4, 0.625, 1.0)
"""The looks of a derived design, as shares of its last one: 5, 10, 16, 25, 40."""
FEWEST = 5
"""Seeds of the first look of a derived design, at least."""
MOST = 10_000
"""Seeds beyond which no design is derived."""
QUADRATURE = 400
"""Points at which a distribution of the standard deviation is taken."""


def power_same(looks: Looks, spread: float) -> float:
    """The chance that the last look calls a strategy without any effect the same; 0 without a margin."""
    n = looks.at[-1]
    if looks.margin is None or n < 2:
        return 0.0
    return _same(looks.margin, n, looks.error(n), spread)


def seeds_needed(
    effect: float, spread: float, strategies: int, looks: int = 1, power: float = POWER, same: bool = False
) -> int:
    """The fewest seeds at the last of ``looks`` looks with which a difference is found with this power.

    Args:
        same: instead of finding a difference of size ``effect``, find that a true difference of 0 is within
            a margin of ``effect``.

    Raises:
        ValueError: no design of up to 10,000 seeds does, or an argument is not positive.

    >>> seeds_needed(effect=1.0, spread=1.55, strategies=8)
    37
    >>> seeds_needed(effect=0.5, spread=1.55, strategies=8)
    129
    """
    for name, value in (("effect", effect), ("spread", spread), ("strategies", strategies), ("looks", looks)):
        if not value > 0:
            raise ValueError(f"{name} {value}: expected a number above 0")

    def enough(n: int) -> bool:
        error = _shape(n, strategies, looks).error(n)
        found = _same(effect, n, error, spread) if same else _found(effect / spread, n, error)
        return found >= power

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            raise ValueError(
                f"an effect of {effect:g} at a spread of {spread:g} with {strategies} strategies takes more "
                f"than {MOST} seeds"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def derived(margin: float, spread: float, strategies: int, power: float = POWER) -> Looks:
    """Looks whose last one finds, with this power, a difference of the margin, and that none is the same.

    Both at once is what a margin asks for: a strategy that is that much better or worse should be called so,
    and one without any effect should be called the same. The looks are at 1/8, 1/4, 2/5, 5/8 and all of the
    seeds, those below five left out.

    Raises:
        ValueError: as :func:`seeds_needed`.
    """
    looks = len(FRACTIONS)
    last = max(
        seeds_needed(margin, spread, strategies, looks, power),
        seeds_needed(margin, spread, strategies, looks, power, same=True),
    )
    return Looks(_at(last), strategies, margin)


def least_effect(looks: Looks, spread: float, power: float = POWER) -> float:
    """The least true difference that the last look finds with this power; infinite with a single seed.

    The noncentral t-distribution of the one-sample t-test (Cohen, "Statistical power analysis for the
    behavioral sciences", 1988), at the error that the last look has and for its interval, which is a little
    longer than Student's.

    Args:
        spread: standard deviation of the differences from seed to seed.
    """
    n = looks.at[-1]
    if n < 2:
        return math.inf
    low, high = 0.0, 1.0
    while _found(high, n, looks.error(n)) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _found(middle, n, looks.error(n)) >= power else (middle, high)
    return high * spread


def _at(last: int) -> tuple[int, ...]:
    rounded = sorted({round(share * last) for share in FRACTIONS})
    return tuple(n for n in rounded if n >= min(FEWEST, last))


def _shape(last: int, strategies: int, looks: int) -> Looks:
    """A design of so many looks with its last one there: the others as derived ones, or evenly."""
    if looks == len(FRACTIONS):
        return Looks(_at(last), strategies)
    return Looks(tuple(sorted({max(1, round(last * (k + 1) / looks)) for k in range(looks)})), strategies)


def _width(n: int, error: float, ends: float) -> float:
    """From the mean to an end of the interval, in standard deviations.

    Either end is longer by the skewness that normal values have by chance, and never both: on average over
    the samples 0.8 sqrt(6/n) for one of them (``ends`` 1), half of it for a given one (``ends`` 0.5).
    """
    width = float(stats.t.isf(error / 2, n - 1)) / math.sqrt(n)
    skew = math.sqrt(2 / math.pi) * math.sqrt(6 / n) * (1 + skewness.SMALL_SAMPLE / n)
    return width + ends * min(width, skew * (width**2 / 3 + 1 / (6 * n)))


def _found(effect: float, n: int, error: float) -> float:
    """The chance of an interval beyond 0 on the right side; effect in standard deviations."""
    root = math.sqrt(n)
    return float(stats.nct.sf(_width(n, error, 0.5) * root, n - 1, effect * root))


def _same(margin: float, n: int, error: float, spread: float) -> float:
    """The chance that an interval of a true difference of 0 lies within the margin.

    With standard deviation s the interval does if |mean| < margin - width s: the mean's normal probability,
    averaged over the distribution of s, which is independent of the mean.
    """
    probabilities = (np.arange(QUADRATURE) + 0.5) / QUADRATURE
    s = spread * np.sqrt(stats.chi2.ppf(probabilities, n - 1) / (n - 1))
    room = np.maximum(margin - _width(n, error, 1.0) * s, 0)
    mean = stats.norm(0, spread / math.sqrt(n))
    return float(np.mean(mean.cdf(room) - mean.cdf(-room)))

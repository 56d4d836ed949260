"""What a design of looks can find, before it runs, on plain numbers.

All figures are for normal differences and for the last look, which has the most seeds and the largest error.
They leave out that earlier looks may decide too, which adds a little, and that hopeless strategies are
stopped, which takes a little away; benchmarks/coverage.py shows what derived designs really find.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

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
TIMES = 2
"""The last look after a pilot has at least so many times its seeds: an interval of fewer would mostly rest on
the very spread by which they were chosen."""
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

    needed = _fewest(enough, 2, MOST)
    if needed is None:
        raise ValueError(
            f"an effect of {effect:g} at a spread of {spread:g} with {strategies} strategies takes more "
            f"than {MOST} seeds"
        )
    return needed


def after_pilot(pilot: Looks, spread: float, most: int, power: float = POWER) -> Looks:
    """The looks of a design whose first one was a pilot that showed this spread.

    As many seeds as have the power of :func:`derived`, at least twice those of the pilot, at most ``most``;
    its later looks are those of ``derived`` that have twice the pilot's seeds or more.

    Args:
        pilot: the look of the pilot alone, with strategies and margin.
        spread: standard deviation of differences from seed to seed, in the margin's unit, above 0.

    >>> pilot = Looks((8,), strategies=8, margin=1.0, pilot=True)
    >>> [after_pilot(pilot, spread, most=60).at for spread in (0.3, 1.0, 1.5, 9.0)]
    [(8, 16), (8, 24), (8, 19, 30, 48), (8, 24, 38, 60)]
    """
    n, margin = pilot.at[0], pilot.margin
    assert margin is not None

    def design(last: int) -> Looks:
        later = {round(share * last) for share in FRACTIONS}
        return replace(pilot, at=(n, *sorted(one for one in later if one >= min(TIMES * n, last))))

    def enough(last: int) -> bool:
        error = design(last).error(last)
        found = _found(margin / spread, last, error), _same(margin, last, error, spread)
        return min(found) >= power

    return design(_fewest(enough, min(TIMES * n, most), most) or most)


def widest_spread(pilot: Looks, most: int, power: float = POWER) -> float:
    """The largest spread, in the margin's unit, at which :func:`after_pilot` has this power."""
    assert pilot.margin is not None
    error = after_pilot(pilot, 1e6 * pilot.margin, most, power).error(most)
    low, high = 0.0, math.sqrt(most)  # of the spread as a share of the margin: at the upper one z is about 1
    for _ in range(40):
        middle = (low + high) / 2
        found = _found(1 / middle, most, error), _same(1.0, most, error, middle)
        low, high = (middle, high) if min(found) >= power else (low, middle)
    return low * pilot.margin


def derived(
    margin: float, spread: float, strategies: int, power: float = POWER, most: int | None = None
) -> Looks:
    """Looks whose last one finds, with this power, a difference of the margin, and that none is the same.

    Both at once is what a margin asks for: a strategy that is that much better or worse should be called so,
    and one without any effect should be called the same. The looks are at 1/8, 1/4, 2/5, 5/8 and all of the
    seeds, those below five left out.

    Args:
        most: seeds of the last look, at most, though it had less power then; None: no such limit.

    Raises:
        ValueError: as :func:`seeds_needed`, without ``most``.
    """
    looks = len(FRACTIONS)
    try:
        last = max(
            seeds_needed(margin, spread, strategies, looks, power),
            seeds_needed(margin, spread, strategies, looks, power, same=True),
        )
    except ValueError:
        if most is None:
            raise
        last = most
    return Looks(_at(last if most is None else min(last, most)), strategies, margin)


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


def _fewest(enough: Callable[[int], bool], low: int, most: int) -> int | None:
    """The fewest seeds, from ``low`` to ``most``, that are enough; None: even these are not."""
    if enough(low):
        return low
    high = min(2 * low, most)
    while not enough(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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
    bound, centre = _width(n, error, 0.5) * root, effect * root
    found = float(stats.nct.sf(bound, n - 1, centre))
    if math.isnan(found):  # of effects so large that only the standard deviation is left to chance
        return float(stats.chi2.cdf((n - 1) * (centre / bound) ** 2, n - 1))
    return found


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

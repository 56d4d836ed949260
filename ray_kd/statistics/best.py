"""Who may be best, and who beats whom on a new seed: for fixed seeds, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from ray_kd.statistics import skewness
from ray_kd.statistics.intervals import ALPHA, CONFIDENCE, ROUNDING, Numbers, differences
from ray_kd.statistics.looks import Looks

AT_ONCE = 500_000
"""Differences that are held in memory together."""


@dataclass(frozen=True)
class Contender:
    """One strategy beside the best of the others."""

    mean: float
    """Of its metric over the seeds."""
    low: float
    high: float
    """Simultaneous interval of how much better its true mean is than the best true mean of the others; more
    is better, for losses too. The low end is at most 0, the high end at least 0. A low end of 0: it is the
    best; a high end of 0: it is not."""

    @property
    def may_be_best(self) -> bool:
        """Whether the interval leaves room for it to be the best."""
        return self.high > 0


@dataclass(frozen=True)
class Best:
    """Simultaneous comparison with the best, over seeds that all compared strategies have."""

    contenders: dict[str, Contender]
    """By name, the best mean first."""
    seeds: tuple[int, ...]
    lost: tuple[str, ...]
    """Strategies that lack a seed and are therefore not compared: nothing is said of them."""

    @property
    def may_be_best(self) -> tuple[str, ...]:
        """Holds the truly best strategy in 95 % of sweeps; a single name: that one is the best."""
        return tuple(name for name, found in self.contenders.items() if found.may_be_best)


@dataclass(frozen=True)
class Share:
    """The share of seeds on which one strategy is strictly better than another."""

    wins: int
    ties: int
    n: int
    low: float
    high: float
    """Interval of the chance that it is better on a new seed; 0 and 1 without a seed."""


def best(
    looks: Looks,
    seeds: Sequence[int],
    values: Mapping[str, Mapping[int, float]],
    higher_is_better: bool = True,
) -> Best:
    """Compare each strategy with the best of the others (Hsu's multiple comparisons with the best).

    Hsu ("Constrained simultaneous confidence intervals for multiple comparisons with the best", Annals of
    Statistics 12, 1984, 1136-1144), for paired values with unknown correlations: each difference has a spread
    of its own, and Bonferroni's bound over the k - 1 comparisons with the truly best strategy replaces
    Dunnett's quantile. Deviation: intervals of differences are those of :mod:`ray_kd.statistics.skewness`.

    Args:
        looks: the design, which has one look.
        seeds: all seeds, in the order in which looks take them.
        values: metric by seed of each strategy, the reference among them if it is to be compared.

    Raises:
        ValueError: a design of several looks, or fewer than two seeds.

    >>> a, b, c = {0: 0.90, 1: 0.80, 2: 0.85}, {0: 0.5, 1: 0.41, 2: 0.45}, {0: 0.91, 1: 0.79, 2: 0.84}
    >>> best(Looks((3,), strategies=2), range(3), {"a": a, "b": b, "c": c}).may_be_best
    ('a', 'c')
    """
    if len(looks.at) > 1:
        raise ValueError(
            f"looks {list(looks.at)}: who may be best is asked of fixed seeds, a design of one look; with "
            "several, strategies stop at different numbers of seeds, where chance made them look good or bad"
        )
    first = tuple(seeds[: looks.at[0]])
    if len(first) < 2:
        raise ValueError(f"seeds {list(first)}: who may be best takes at least two seeds")
    sign = 1.0 if higher_is_better else -1.0
    whole = {
        name: {seed: sign * found[seed] for seed in first}
        for name, found in values.items()
        if all(seed in found for seed in first)
    }
    table = np.array([list(found.values()) for found in whole.values()]).reshape(len(whole), len(first))
    lows = _lows(table, ALPHA / max(1, len(whole) - 1), looks.overlap)
    highs = np.maximum(0.0, -lows.max(axis=0, initial=-math.inf))
    lows = np.minimum(0.0, lows.min(axis=1, initial=0.0, where=(highs > 0) & ~np.eye(len(whole), dtype=bool)))
    contenders = {}
    for index in sorted(range(len(whole)), key=lambda index: -math.fsum(table[index])):
        mean = sign * math.fsum(table[index]) / len(first)
        contenders[list(whole)[index]] = Contender(mean, float(lows[index]), float(highs[index]))
    return Best(contenders, first, tuple(name for name in values if name not in whole))


def beats(values: Mapping[int, float], others: Mapping[int, float], higher_is_better: bool = True) -> Share:
    """How often one strategy is better than another on a seed, which is how likely it is on a new one.

    The interval is that of Clopper and Pearson (Biometrika 26, 1934) at 95 %, for this pair alone. It assumes
    nothing of the differences but that seeds are independent: a normal model would be narrower, and wrong
    where differences have heavy tails. A tie is no win for either.
    """
    found = differences(values, others) * (1 if higher_is_better else -1)
    n, wins, ties = len(found), int((found > 0).sum()), int((found == 0).sum())
    if n == 0:
        return Share(0, 0, 0, 0.0, 1.0)
    return Share(wins, ties, n, *_chance(wins, n))


@cache
def _chance(wins: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a chance."""
    exact = stats.binomtest(wins, n).proportion_ci(CONFIDENCE, method="exact")
    return float(exact.low), float(exact.high)


def _lows(table: Numbers, error: float, overlap: float) -> Numbers:
    """Lower bound of each row's difference to each other row, with this one-sided error; the upper bound is
    minus the lower bound of the reverse. -inf where differences have no spread to judge by, since any would
    pass as exact.

    Args:
        table: a row for each strategy, a column for each seed.
    """
    count, seeds = table.shape
    lows, scale = np.full((count, count), -math.inf), np.abs(table).max(axis=1, initial=0.0)
    step = max(1, AT_ONCE // max(1, count * seeds))
    for start in range(0, count, step):  # each pair once, in blocks of rows
        rows, rest = slice(start, start + step), slice(start, count)
        found = np.sort(table[rows, None] - table[None, rest], axis=-1)
        constant = np.ptp(found, axis=-1) <= ROUNDING * np.maximum(scale[rows, None], scale[None, rest])
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = skewness.bounds(found, 2 * error, overlap)
        lows[rest, rows] = np.where(constant, -math.inf, -high).T
        lows[rows, rest] = np.where(constant, -math.inf, low)
    return lows

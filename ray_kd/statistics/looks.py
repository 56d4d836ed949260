"""Repeated confidence intervals: verdicts at declared numbers of seeds, which hold together.

Adding seeds until something is significant finds a difference in one of five sweeps in which there is none.
Here the numbers of seeds at which results are looked at are declared before the first one, and the intervals
of all strategies at all looks hold together at 95 % (Jennison and Turnbull, "Interim analyses: the repeated
confidence interval approach", JRSS B 51, 1989, 305-361). The error of 5 % is divided equally among the
strategies, and each one's part among its looks by the power family of spending functions with exponent 2
(Kim and DeMets, "Design and analysis of group sequential tests based on the type I error spending rate
function", Biometrika 74, 1987, 149-154): by the look of n seeds of at most N, (n/N)^2 of it is spent.

Deviation: what a look may spend is its interval's whole error, as if looks had no errors in common
(Bonferroni's bound). This needs no joint distribution and holds for every dependence. At up to five looks the
exact form would save a few percent of the trials; docs/statistics.md compares it with this one and others.

The later looks may be chosen after the first one, from the spread of differences that it shows (an internal
pilot: Wittes and Brittain, "The role of internal pilot studies in increasing the efficiency of clinical
trials", Statistics in Medicine 9, 1990, 65-72). The first look then spends a share of the error that is fixed
beforehand, and the later ones divide the rest as above. With a last look at twice the pilot's seeds or more,
simulated levels are about those of looks that were fixed beforehand (benchmarks/coverage.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import special

from ray_kd.statistics import skewness
from ray_kd.statistics.intervals import ALPHA, Interval, Numbers, differences, equal

EXPONENT = 2
"""Of the spending function: 1 would spend evenly by seeds, 3 keeps nearly all for the last look."""
PILOT = 0.1
"""Share of the error that the first look spends where the later ones are chosen from its spread."""
HOPELESS_FROM = 3
"""The look from which a strategy may be stopped as hopeless."""
HOPELESS = 0.1
"""Conditional power below which it is."""


class Verdict(StrEnum):
    """What the trials say on a strategy beside its reference."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "the same"
    """The interval of the difference lies within the margin on both sides of 0."""
    OPEN = "open"
    NONE = "no verdict"
    """Seeds were lost to failures, and those that are left may be a selection."""

    @property
    def decided(self) -> bool:
        """Whether more seeds cannot change it."""
        return self in (Verdict.BETTER, Verdict.WORSE, Verdict.SAME)


@dataclass(frozen=True)
class Looks:
    """The looks of one family of strategies, declared before its first look.

    Args:
        at: numbers of seeds, increasing; a plain list of n seeds is one look at n. A look of one seed decides
            nothing.
        strategies: how many strategies are compared with their reference: m.
        margin: half the width of what counts as the same, in the metric's own unit (0.01 for one point of a
            rate); None: no verdict "the same".
        overlap: of the seeds' splits, where each seed has its own; see ``statistics.intervals.interval``.
        pilot: the later looks are chosen from the spread at the first one.

    Raises:
        ValueError: looks that do not increase, a margin that is not positive.

    >>> looks = Looks(at=(5, 10, 16, 25, 40), strategies=8, margin=0.01)
    >>> [round(looks.error(n) * 8, 4) for n in looks.at]
    [0.0008, 0.0023, 0.0049, 0.0115, 0.0305]
    """

    at: tuple[int, ...]
    strategies: int
    margin: float | None = None
    overlap: float = 0.0
    pilot: bool = False

    def __post_init__(self) -> None:
        if not self.at or any(b <= a for a, b in zip((0, *self.at), self.at, strict=False)):
            raise ValueError(
                f"looks {list(self.at)}: expected numbers of seeds that increase, as [10, 16, 25, 40]"
            )
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"margin {self.margin}: expected a number above 0, or none")

    def error(self, n: int) -> float:
        """Two-sided error of one strategy's interval at the look of ``n`` seeds; all sum to 0.05.

        With a pilot that of the first look does not depend on the others.

        Raises:
            ValueError: there is no look of ``n`` seeds.
        """
        if n not in self.at:
            raise ValueError(f"no look at {n} seeds: there are looks at {', '.join(map(str, self.at))}")
        each, planned = ALPHA / max(1, self.strategies), self.at
        if self.pilot:
            if n == self.at[0]:
                return each * PILOT
            each, planned = each * (1 - PILOT), self.at[1:]
        before = max((look for look in planned if look < n), default=0)
        return each * ((n / self.at[-1]) ** EXPONENT - (before / self.at[-1]) ** EXPONENT)

    def half_width(self, n: int, spread: float) -> float:
        """Half the width of the interval at the look of ``n`` seeds, of differences that are not skewed.

        Args:
            spread: standard deviation of the differences from seed to seed.
        """
        return -float(special.stdtrit(n - 1, self.error(n) / 2)) * spread * math.sqrt(1 / n + self.overlap)


@dataclass(frozen=True)
class Judged:
    """One strategy's difference to its reference at the look that decided it, or at the last one reached."""

    verdict: Verdict
    look: int
    """Seeds of that look; 0: no look has been reached."""
    difference: Interval
    """Mean of the differences at that look, with the interval that carries the verdict; longer on the side of
    the longer tail. Without a look: the mean so far, without bounds."""
    p: float
    """The smallest error of the whole family at which this interval excludes 0, at most 1; else nan."""
    constant: bool = False
    """All differences are equal, so that they have no spread to judge by."""
    lost: int = 0
    """Seeds of the looks reached whose trial failed or was stopped, of either of the two."""
    hopeless: bool = False
    """Open, and unlikely to be anything else at the last look: no more seeds are spent on it."""
    skewed: bool = False
    """The differences are skewed for sure; beyond a skewness of 1 intervals of few seeds are too short."""

    @property
    def settled(self) -> bool:
        """Whether it gets no more seeds: decided, hopeless, or without a verdict for its failures."""
        return self.verdict.decided or self.hopeless or self.verdict is Verdict.NONE


def judge(
    looks: Looks,
    seeds: Sequence[int],
    values: Mapping[int, float],
    reference: Mapping[int, float],
    ended: Collection[int],
    higher_is_better: bool = True,
) -> Judged:
    """The verdict on one strategy: that of the first look that decides it.

    Args:
        seeds: all seeds in the order in which looks take them; those beyond the last look do not count.
        values, reference: the metric by seed, of the trials that finished.
        ended: seeds for which both the strategy's and the reference's trial have ended, in whatever way.

    A look of n seeds is reached when the first n seeds have ended. If a trial of these failed, there is no
    verdict from then on; one that an earlier look gave stands. A look that finds the strategy hopeless is its
    last too, so that the answer does not depend on how many trials had been started ahead.
    """
    so_far = differences(values, reference)
    mean = float(so_far.mean()) if len(so_far) else math.nan
    latest = Judged(Verdict.OPEN, 0, Interval(mean, math.nan, math.nan, len(so_far)), math.nan)
    for n in looks.at:
        first = seeds[:n]
        if n > len(seeds) or not set(first) <= set(ended):
            break
        lost = sum(seed not in values or seed not in reference for seed in first)
        if lost:
            return Judged(Verdict.NONE, n, latest.difference, math.nan, lost=lost)
        latest = _at(looks, {seed: values[seed] for seed in first}, reference, higher_is_better)
        if latest.settled:
            break
    return latest


def conditional_power(looks: Looks, n: int, mean: float, spread: float) -> float:
    """The chance that the last look decides, if the seeds to come are as those of the look of ``n`` were.

    Conditional power under the current trend (Lan and Wittes, "The B-value: a tool for monitoring data",
    Biometrics 44, 1988, 579-585), here of any verdict: better, worse, or the same within the margin.

    Args:
        mean, spread: of the differences of the first n seeds, at a look before the last one.
    """
    last = looks.at[-1]
    width = looks.half_width(last, spread)
    final = spread * math.sqrt(last - n) / last  # standard deviation of the mean at the last look

    def below(bound: float) -> float:
        return float(special.ndtr((bound - mean) / final))

    chance = 1 - below(width) + below(-width)
    if looks.margin is not None and looks.margin > width:
        chance += below(looks.margin - width) - below(width - looks.margin)
    return chance


def _at(
    looks: Looks, values: Mapping[int, float], reference: Mapping[int, float], higher_is_better: bool
) -> Judged:
    found, n = differences(values, reference), len(values)
    mean = float(found.mean())
    if n < 2:
        return Judged(Verdict.OPEN, n, Interval(mean, math.nan, math.nan, n), math.nan)
    if equal(found, values, reference):
        bound = 0.0 if equal(np.append(found, 0.0), values, reference) else math.nan
        return Judged(Verdict.OPEN, n, Interval(mean, bound, bound, n), 1.0, constant=True)
    shown = skewness.interval(found, looks.error(n), looks.overlap)
    p = min(1.0, skewness.p_value(found, looks.overlap) * ALPHA / looks.error(n))
    verdict = Verdict.OPEN
    if shown.low > 0 or shown.high < 0:
        verdict = Verdict.BETTER if (mean > 0) == higher_is_better else Verdict.WORSE
    elif looks.margin is not None and -looks.margin < shown.low and shown.high < looks.margin:
        verdict = Verdict.SAME
    hopeless = verdict is Verdict.OPEN and _hopeless(looks, found)
    return Judged(verdict, n, shown, p, hopeless=hopeless, skewed=skewness.skewed(found))


def _hopeless(looks: Looks, found: Numbers) -> bool:
    n = len(found)
    if n == looks.at[-1] or looks.at.index(n) + 1 < HOPELESS_FROM:
        return False
    return conditional_power(looks, n, float(found.mean()), float(found.std(ddof=1))) < HOPELESS

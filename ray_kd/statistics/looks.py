"""Repeated confidence intervals: verdicts at declared numbers of seeds, which hold together.

Adding seeds until something is significant finds a difference in one of five sweeps in which there is none.
Here the numbers of seeds at which results are looked at are declared before the first one, and the intervals
of all strategies at all looks hold together at 95 % (Jennison and Turnbull, JRSS B 51, 1989, "Interim
analyses: the repeated confidence interval approach"; here with Bonferroni's bound over strategies and looks).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy import stats

from ray_kd.statistics.intervals import ALPHA, Interval, Paired, paired


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
        at: numbers of seeds, increasing; a plain list of n seeds is one look at n.
        strategies: how many strategies are compared with their reference: m.
        margin: half the width of what counts as the same, in the metric's own unit (0.01 for one point of a
            rate); None: no verdict "the same".
        overlap: of the seeds' splits, where each seed has its own; see ``statistics.intervals.interval``.
    """

    at: tuple[int, ...]
    strategies: int
    margin: float | None = None
    overlap: float = 0.0

    @property
    def error(self) -> float:
        """Two-sided error of one interval: 0.05 divided by strategies and looks."""
        return ALPHA / (max(1, self.strategies) * len(self.at))

    def half_width(self, n: int, spread: float) -> float:
        """Half the width of the interval at the look of ``n`` seeds.

        Args:
            spread: standard deviation of the differences from seed to seed.
        """
        return float(stats.t.isf(self.error / 2, n - 1)) * spread * math.sqrt(1 / n + self.overlap)


@dataclass(frozen=True)
class Judged:
    """One strategy's difference to its reference at the look that decided it, or at the last one reached."""

    verdict: Verdict
    look: int
    """Seeds of that look; 0: no look has been reached."""
    difference: Interval
    """Mean of the differences at that look, with the interval that carries the verdict. Without a look: the
    mean so far, without bounds."""
    p: float
    """The smallest error of the whole family at which this interval excludes 0, at most 1; else nan."""
    constant: bool = False
    """All differences are equal, so that they have no spread to judge by."""
    lost: int = 0
    """Seeds of the looks reached whose trial failed or was stopped, of either of the two."""


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
    verdict from then on; one that an earlier look gave stands.
    """
    latest = Judged(Verdict.OPEN, 0, _without_bounds(paired(values, reference)), math.nan)
    for n in looks.at:
        first = seeds[:n]
        if n > len(seeds) or not set(first) <= set(ended):
            break
        lost = sum(seed not in values or seed not in reference for seed in first)
        if lost:
            return Judged(Verdict.NONE, n, latest.difference, math.nan, lost=lost)
        latest = _at(looks, {seed: values[seed] for seed in first}, reference, higher_is_better)
        if latest.verdict.decided:
            break
    return latest


def _at(
    looks: Looks, values: Mapping[int, float], reference: Mapping[int, float], higher_is_better: bool
) -> Judged:
    test = paired(values, reference, confidence=1 - looks.error, overlap=looks.overlap)
    found, n = test.difference, len(values)
    if n < 2 or test.constant:
        return Judged(Verdict.OPEN, n, found, math.nan if n < 2 else 1.0, constant=test.constant)
    p = min(1.0, test.p * ALPHA / looks.error)
    verdict = Verdict.OPEN
    if found.low > 0 or found.high < 0:
        verdict = Verdict.BETTER if (found.mean > 0) == higher_is_better else Verdict.WORSE
    elif looks.margin is not None and -looks.margin < found.low and found.high < looks.margin:
        verdict = Verdict.SAME
    return Judged(verdict, n, found, p)


def _without_bounds(test: Paired) -> Interval:
    return Interval(test.difference.mean, math.nan, math.nan, test.difference.n)

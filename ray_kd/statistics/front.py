"""Which strategies may lie on the Pareto front of a metric and costs: for fixed seeds, on plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_kd.statistics import skewness
from ray_kd.statistics.intervals import ALPHA, Numbers, differences, equal

BySeed = Mapping[int, float]


def beaten_by(
    values: Mapping[str, BySeed],
    costs: Mapping[str, Sequence[BySeed]],
    higher_is_better: bool = True,
    overlap: float = 0.0,
) -> dict[str, tuple[str, ...]]:
    """For each strategy those that are better and cost less, for sure; without any, it may be on the front.

    A strategy is off the front if another has a better true mean and lower true costs. Two strategies are
    compared by seed, in the metric and in each cost, and one beats the other if the lower bounds of all of
    these differences are above 0: each with the same one-sided error, which holds for all together as for one
    (an intersection-union test: Berger, Technometrics 24, 1982). A cost whose difference is the same on all
    seeds, as that of parameters, is known: there equal costs do. The errors of all pairs that known costs
    allow add up to 5 % (Bonferroni), so what nothing beats holds the whole front in 95 % of sweeps.
    Intervals are those of :mod:`ray_kd.statistics.skewness`. A single seed says nothing.

    Args:
        values: the metric by seed; all strategies have the same seeds.
        costs: one or several costs by seed of each strategy, in the same order.
        overlap: of the metric's seeds; see ``statistics.intervals.interval``.

    Raises:
        ValueError: a strategy lacks a seed of another one.

    >>> values = {"slow": {0: 0.70, 1: 0.72, 2: 0.71}, "fast": {0: 0.90, 1: 0.925, 2: 0.915}}
    >>> seconds = {"slow": [{0: 20.0, 1: 21.0, 2: 20.4}], "fast": [{0: 10.0, 1: 10.2, 2: 9.9}]}
    >>> beaten_by(values, seconds)
    {'slow': ('fast',), 'fast': ()}
    """
    seeds = {frozenset(of) for name in values for of in (values[name], *costs[name])}
    if len(seeds) > 1:
        raise ValueError(f"seeds: expected the same everywhere, got {sorted(map(sorted, seeds))}")
    signed = {
        name: {seed: value if higher_is_better else -value for seed, value in of.items()}
        for name, of in values.items()
    }
    pairs = {
        (one, other): [_Saved(mine, its) for mine, its in zip(costs[one], costs[other], strict=True)]
        for one in values
        for other in values
        if one != other
    }
    pairs = {pair: saved for pair, saved in pairs.items() if all(cost.possible for cost in saved)}
    error = 2 * ALPHA / max(1, len(pairs))

    def beats(one: str, other: str) -> bool:
        gain = _Saved(signed[other], signed[one])
        return (
            not gain.known
            and gain.sure(error, overlap)
            and all(cost.sure(error) for cost in pairs[one, other])
        )

    return {one: tuple(other for a, other in pairs if a == one and beats(one, other)) for one in values}


class _Saved:
    """How much more one has than another, by seed."""

    def __init__(self, one: BySeed, other: BySeed) -> None:
        self.by_seed: Numbers = differences(one, other)
        self.known = equal(self.by_seed, one, other)

    @property
    def possible(self) -> bool:
        """Whether it may be at least 0."""
        return not self.known or bool(self.by_seed.mean() >= 0)

    def sure(self, error: float, overlap: float = 0.0) -> bool:
        """Whether it is: above 0 at this two-sided error, or known."""
        return self.possible if self.known else skewness.interval(self.by_seed, error, overlap).low > 0

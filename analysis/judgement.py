"""Is one strategy of a sweep as good as the best of the others? Three questions about it.

The first two are answered with paired one-sided 95 % bounds of a difference (the bounds of a paired 90 %
t-interval over common seeds), the third with the share of each path in the update:

1. Is it worse than the comparator, the strategy that is best on *validation* among all others?
2. What does a harmful path cost it, and what does the same path cost the others?
3. Do its weights show which paths help: has a harmful path almost no share, and does a useful one keep
   half of an equal share?
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.path_shares import OFF, Share, path_shares
from analysis.strategies import ALONE, PathSet, Strategy, strategies_of
from ray_kd.analysis.records import Records, incomplete_note
from ray_kd.config.errors import UserError, unknown
from ray_kd.statistics.intervals import Interval, interval, paired

MARGIN = 0.01
"""One point: the largest loss that still counts as non-inferior."""
ONE_SIDED = 0.90
"""The ends of a two-sided 90 % interval are one-sided 95 % bounds."""
HARM_REFERENCE = "equal_norm"
"""Corrupted paths count as harmful where they lower the test metric of this strategy significantly."""
VERDICTS = ("non-inferior", "inconclusive", "inferior")


@dataclass(frozen=True)
class Difference:
    """A paired difference of the test metric with one-sided bounds; > 0: the first strategy is better."""

    bounds: Interval

    @property
    def verdict(self) -> str:
        """non-inferior: the lower bound is above minus the margin; inferior: the upper one is below it."""
        if self.bounds.low > -MARGIN:
            return "non-inferior"
        return "inferior" if self.bounds.high < -MARGIN else "inconclusive"


@dataclass(frozen=True)
class Contest:
    """The strategy against the comparator, on one set of paths."""

    strategy: Strategy
    comparator: Strategy
    """The candidate with the best mean on validation data, over the seeds that the strategy has, too."""
    validation: tuple[float, float]
    """Mean validation metric of strategy and comparator on the common seeds."""
    difference: Difference
    candidates: tuple[str, ...]
    """The strategies that the comparator was chosen from."""


@dataclass(frozen=True)
class Cost:
    """What harmful paths cost a strategy: its test metric with them minus without, on the same seeds."""

    strategy: Strategy
    difference: Difference


@dataclass(frozen=True)
class ShareCheck:
    """Whether the share of one path in the update agrees with what the path is worth."""

    strategy: Strategy
    share: Share
    harmful: bool
    counts: bool | None
    """Of a harmful path: whether it lowers the test metric of ``HARM_REFERENCE`` significantly. Of a clean
    one: whether the path alone is significantly better than the student alone. None: the sweep has no
    cells that tell."""
    limit: float
    """The share that a harmful path must stay below, or that a clean one must reach."""

    @property
    def holds(self) -> bool | None:
        """Whether the share keeps its limit; None where the path does not count or nothing was measured."""
        if not self.counts or math.isnan(self.share.mean):
            return None
        return self.share.mean < self.limit if self.harmful else self.share.mean >= self.limit


@dataclass(frozen=True)
class Judgement:
    """The answers to the three questions."""

    strategy: str
    metric: str
    contests: tuple[Contest, ...]
    costs: tuple[Cost, ...]
    checks: tuple[ShareCheck, ...]
    harmful: Mapping[PathSet, bool]
    """Whether the harmful paths of a set lower ``HARM_REFERENCE`` significantly; of the sets that tell."""
    notes: tuple[str, ...] = ()

    def counts_as_harmful(self, strategy: Strategy) -> bool | None:
        """Whether the harmful paths of a strategy's set count as harmful; None: no cells tell."""
        return self.harmful.get(strategy.path_set)


def judge(records: Records, name: str = "utility") -> Judgement:
    """Judge one strategy of a sweep.

    Args:
        records: of one sweep, read by ``read_records`` or ``read_tables``.
        name: the name of the strategy's aggregator.

    Raises:
        UserError: the records are of no single sweep, or no trial of the strategy has finished.
    """
    if records.plan is None:
        raise UserError("a judgement needs the plan of one sweep: read_records(storage, sweep=NAME).")
    metric = records.plan.metric
    if records.plan.mode == "min":
        raise UserError(f"metric '{metric}': a judgement needs a metric of which more is better.")
    strategies = strategies_of(records.trials, metric)
    judged = [one for one in strategies if one.name == name]
    if not judged:
        known = sorted({one.name for one in strategies})
        raise unknown("strategy", name, known, where=f"the finished trials of '{records.plan.name}'")
    contests = [contest for one in judged if (contest := _contest(one, strategies, name)) is not None]
    costs = [cost for one in strategies if (cost := _cost(one, strategies)) is not None]
    harmful = {
        cost.strategy.path_set: cost.difference.bounds.high < 0
        for cost in costs
        if cost.strategy.name == HARM_REFERENCE
    }
    checks = [check for one in judged for check in _checks(one, strategies, records, harmful)]
    return Judgement(
        strategy=name,
        metric=metric,
        contests=tuple(contests),
        costs=tuple(costs),
        checks=tuple(checks),
        harmful=harmful,
        notes=(*incomplete_note(records.trials), *records.plan.notes),
    )


def difference(values: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """The paired difference of two strategies on their common seeds, with one-sided 95 % bounds.

    Differences that are equal on every seed (accuracies of few test samples on few seeds) have no variance
    and therefore no bounds, unless all are 0: the cautious reading, as in ``stats.paired``.
    """
    plain = paired(values, other)
    if plain.constant:
        return Difference(plain.difference)
    common = sorted(set(values) & set(other))
    return Difference(interval([values[seed] - other[seed] for seed in common], ONE_SIDED))


def comparators(strategy: Strategy, strategies: Iterable[Strategy], name: str) -> list[Strategy]:
    """What ``strategy`` is compared with: the student alone, each of its clean paths alone, and every other
    strategy on the same paths. Those of its own name (searched, or with other options) are excepted."""
    found = []
    for other in strategies:
        own = other.name == name or other.name.startswith((f"{name} (", f"{name} ["))
        if other.setting != strategy.setting or own:
            continue
        if other.path_set == strategy.path_set or (
            other.is_alone and not other.harmful and other.clean <= strategy.clean
        ):
            found.append(other)
    return found


def _contest(strategy: Strategy, strategies: list[Strategy], name: str) -> Contest | None:
    others = [
        other for other in comparators(strategy, strategies, name) if set(other.test) & set(strategy.test)
    ]
    if not others:
        return None
    best = max(others, key=lambda other: _mean(other.validation, strategy.validation))
    return Contest(
        strategy=strategy,
        comparator=best,
        validation=(_mean(strategy.validation, best.validation), _mean(best.validation, strategy.validation)),
        difference=difference(strategy.test, best.test),
        candidates=tuple(other.name for other in others),
    )


def _mean(values: Mapping[int, float], shared: Mapping[int, float]) -> float:
    """Mean over the seeds that both have."""
    both = [value for seed, value in values.items() if seed in shared]
    return float(np.mean(both)) if both else -math.inf


def _cost(strategy: Strategy, strategies: list[Strategy]) -> Cost | None:
    if not strategy.harmful or not strategy.clean:
        return None
    same = [other for other in strategies if other.path_set[:2] == strategy.path_set[:2]]
    without = [other for other in same if other.name == strategy.name and not other.harmful]
    return Cost(strategy, difference(strategy.test, without[0].test)) if without else None


def _checks(
    strategy: Strategy, strategies: list[Strategy], records: Records, harmful: Mapping[PathSet, bool]
) -> list[ShareCheck]:
    here = [other for other in strategies if other.setting == strategy.setting]
    alone = next((other for other in here if other.name == ALONE), None)
    singles = {
        next(iter(other.clean)): other
        for other in here
        if len(other.clean) == 1 and not other.harmful and other.name.endswith(" alone")
    }
    equal_share = 1 / (len(strategy.clean) + len(strategy.harmful))
    checks = []
    for share in path_shares(strategy, records.whole_paths):
        if share.path in strategy.harmful:
            counts = harmful.get(strategy.path_set)
            checks.append(ShareCheck(strategy, share, True, counts, limit=OFF))
            continue
        single = singles.get(share.path)
        helps = None
        if single is not None and alone is not None:
            helps = difference(single.test, alone.test).bounds.low > 0
        checks.append(ShareCheck(strategy, share, False, helps, limit=equal_share / 2))
    return checks

"""Is one strategy of a sweep as good as the best of the others? Three questions about it.

The first two are answered by repeated intervals of a paired difference: all intervals of the judgement, at
all looks of the sweep, hold together at 95 %. The third is answered with the share of each path in the
update:

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
import pandas as pd

from analysis.path_shares import OFF, Share, path_shares
from analysis.strategies import ALONE, PathSet, Strategy, strategies_of
from ray_kd.analysis.records import Plan, Records, incomplete_note
from ray_kd.analysis.verdicts import shown
from ray_kd.config.errors import UserError, unknown
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Judged, Looks, Verdict
from ray_kd.statistics.looks import judge as judged_at

MARGIN = 0.01
"""One point: the largest loss that still counts as non-inferior."""
HARM_REFERENCE = "equal_norm"
"""Corrupted paths count as harmful where this strategy is worse with them."""
VERDICTS = ("non-inferior", "inconclusive", "inferior", Verdict.NONE.value)


@dataclass(frozen=True)
class Difference:
    """A paired difference of the test metric with its interval; > 0: the first strategy is better."""

    judged: Judged

    @property
    def bounds(self) -> Interval:
        """The mean with the interval that carries the verdict; without bounds where none does."""
        return shown(self.judged)

    @property
    def verdict(self) -> str:
        """non-inferior: the interval lies above minus the margin; inferior: it lies below it."""
        if self.judged.verdict is Verdict.NONE:
            return Verdict.NONE.value
        if self.bounds.low > -MARGIN:
            return "non-inferior"
        return "inferior" if self.bounds.high < -MARGIN else "inconclusive"


Pair = tuple[Strategy, Strategy]


@dataclass(frozen=True)
class Rule:
    """How differences are judged: all intervals of one judgement, at all looks, hold together at 95 %."""

    looks: Looks
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, plan: Plan, trials: pd.DataFrame, pairs: Iterable[Pair]) -> Rule:
        """The rule for these pairs, at the looks of the sweep; without any, one look at all seeds."""
        cells = {(one.cell, other.cell) for one, other in pairs}
        families = [plan.design.families[index] for index in plan.design.current.values()]
        if families:
            at, seeds = families[0].looks, families[0].seeds
        else:
            compared = trials[trials["phase"] == "compare"]
            seeds = tuple(sorted(int(seed) for seed in compared["seed"].dropna().unique()))
            at = (len(seeds),)
        overlap = max((plan.overlap(cell) for pair in cells for cell in pair), default=0.0)
        return cls(Looks(at, len(cells), MARGIN, overlap=overlap), seeds)

    def difference(self, one: Strategy, other: Strategy) -> Difference:
        """The first strategy's test metric minus the second's, seed by seed."""
        both = one.ended & other.ended
        return Difference(judged_at(self.looks, self.seeds, one.test, other.test, both))


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
    """Of a harmful path: whether ``HARM_REFERENCE`` is worse with it. Of a clean one: whether the path alone
    is better than the student alone. None: the sweep has no cells that tell."""
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
    """Whether ``HARM_REFERENCE`` is worse with the harmful paths of a set; of the sets that tell."""
    rule: Rule
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
    contests = [pair for one in judged if (pair := _contest(one, strategies, name)) is not None]
    costs = [pair for one in strategies if (pair := _cost(one, strategies)) is not None]
    helps = [pair for one in judged for pair in _helps(one, strategies).values()]
    rule = Rule.of(records.plan, records.trials, [*contests, *costs, *helps])
    costed = tuple(Cost(one, rule.difference(one, without)) for one, without in costs)
    harmful = {
        cost.strategy.path_set: cost.difference.judged.verdict is Verdict.WORSE
        for cost in costed
        if cost.strategy.name == HARM_REFERENCE
    }
    checks = [check for one in judged for check in _checks(one, strategies, records, harmful, rule)]
    return Judgement(
        strategy=name,
        metric=metric,
        contests=tuple(_judged(one, best, strategies, name, rule) for one, best in contests),
        costs=costed,
        checks=tuple(checks),
        harmful=harmful,
        rule=rule,
        notes=(*incomplete_note(records.trials), *records.plan.notes),
    )


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


def _candidates(strategy: Strategy, strategies: Iterable[Strategy], name: str) -> list[Strategy]:
    others = comparators(strategy, strategies, name)
    return [other for other in others if set(other.test) & set(strategy.test)]


def _contest(strategy: Strategy, strategies: list[Strategy], name: str) -> Pair | None:
    """The strategy and its comparator."""
    others = _candidates(strategy, strategies, name)
    best = max(others, key=lambda other: _mean(other.validation, strategy.validation), default=None)
    return None if best is None else (strategy, best)


def _judged(strategy: Strategy, best: Strategy, strategies: list[Strategy], name: str, rule: Rule) -> Contest:
    return Contest(
        strategy=strategy,
        comparator=best,
        validation=(_mean(strategy.validation, best.validation), _mean(best.validation, strategy.validation)),
        difference=rule.difference(strategy, best),
        candidates=tuple(other.name for other in _candidates(strategy, strategies, name)),
    )


def _mean(values: Mapping[int, float], shared: Mapping[int, float]) -> float:
    """Mean over the seeds that both have."""
    both = [value for seed, value in values.items() if seed in shared]
    return float(np.mean(both)) if both else -math.inf


def _cost(strategy: Strategy, strategies: list[Strategy]) -> Pair | None:
    """A strategy with harmful paths, and the same without them."""
    if not strategy.harmful or not strategy.clean:
        return None
    same = [other for other in strategies if other.path_set[:2] == strategy.path_set[:2]]
    without = [other for other in same if other.name == strategy.name and not other.harmful]
    return (strategy, without[0]) if without else None


def _helps(strategy: Strategy, strategies: list[Strategy]) -> dict[str, Pair]:
    """By clean path of a strategy: the path alone, and the student alone."""
    here = [other for other in strategies if other.setting == strategy.setting]
    alone = next((other for other in here if other.name == ALONE), None)
    singles = {
        next(iter(other.clean)): other
        for other in here
        if len(other.clean) == 1 and not other.harmful and other.name.endswith(" alone")
    }
    if alone is None:
        return {}
    return {path: (one, alone) for path, one in singles.items() if path in strategy.clean}


def _checks(
    strategy: Strategy,
    strategies: list[Strategy],
    records: Records,
    harmful: Mapping[PathSet, bool],
    rule: Rule,
) -> list[ShareCheck]:
    helps, checks = _helps(strategy, strategies), []
    equal_share = 1 / (len(strategy.clean) + len(strategy.harmful))
    for share in path_shares(strategy, records.whole_paths):
        if share.path in strategy.harmful:
            counts = harmful.get(strategy.path_set)
            checks.append(ShareCheck(strategy, share, True, counts, limit=OFF))
            continue
        pair = helps.get(share.path)
        better = None if pair is None else rule.difference(*pair).judged.verdict is Verdict.BETTER
        checks.append(ShareCheck(strategy, share, False, better, limit=equal_share / 2))
    return checks

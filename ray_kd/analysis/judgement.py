"""Is a strategy good enough? The judgement of one strategy against the best of the others.

Three questions, each answered with the paired one-sided 95 % bound of a difference (the bounds of a
paired 90 % t-interval, seed by seed):

1. Is it worse than the comparator, the strategy that is best on *validation* among all others?
2. What does a harmful path cost it, and what does the same path cost the others?
3. Do its weights say the truth: is a harmful path off, and does a useful one keep its share?
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ray_kd.analysis.arms import ALONE, Arm, arms_of
from ray_kd.analysis.records import Records, incomplete_note
from ray_kd.analysis.shares import Share, shares_of
from ray_kd.analysis.stats import Interval, interval, paired
from ray_kd.config.errors import UserError, unknown

MARGIN = 0.01
"""One point: a loss below it is taken as none."""
ONE_SIDED = 0.90
"""A two-sided 90 % interval has the one-sided 95 % bounds at its ends."""
WITNESS = "equal_norm"
"""A corruption counts as harmful where it lowers this strategy's sum significantly."""
VERDICTS = ("non-inferior", "inconclusive", "inferior")


@dataclass(frozen=True)
class Difference:
    """A paired difference of the test metric, > 0 where the first arm is better, with one-sided bounds."""

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

    arm: Arm
    comparator: Arm
    """The best on validation, mean over the seeds that it shares with the strategy."""
    validation: tuple[float, float]
    """Mean validation metric of strategy and comparator on the common seeds."""
    difference: Difference
    candidates: tuple[str, ...]
    """The strategies that it was chosen among."""


@dataclass(frozen=True)
class Cost:
    """What harmful paths cost a strategy: its test metric with them minus without, on the same seeds."""

    arm: Arm
    difference: Difference


@dataclass(frozen=True)
class Truth:
    """Whether the weights of one path say what it is worth."""

    arm: Arm
    share: Share
    harmful: bool
    counts: bool | None
    """harmful: the corruption lowers the witness significantly; clean: the path alone beats the student.
    None: the sweep has no cells that tell."""
    limit: float

    @property
    def holds(self) -> bool | None:
        """Whether share and limit agree; None where the path does not count or nothing was measured."""
        if not self.counts or math.isnan(self.share.mean):
            return None
        return self.share.mean < self.limit if self.harmful else self.share.mean >= self.limit


@dataclass(frozen=True)
class Judgement:
    """All three answers."""

    strategy: str
    metric: str
    contests: tuple[Contest, ...]
    costs: tuple[Cost, ...]
    truths: tuple[Truth, ...]
    harmful: Mapping[tuple[str, frozenset[str], frozenset[str]], bool | None]
    """Whether the harmful paths of (setting, clean, harmful) lower the witness; None: no such cells."""
    notes: tuple[str, ...] = ()

    def cost_of(self, arm: Arm) -> bool | None:
        """Whether the harmful paths of an arm's set count as harmful."""
        return self.harmful.get((arm.setting, arm.clean, arm.harmful))


def judge(records: Records, strategy: str = "utility") -> Judgement:
    """Judge one strategy of a sweep.

    Args:
        records: of one sweep, read by ``read_records`` or ``read_tables``.
        strategy: the name of its aggregator.

    Raises:
        UserError: the records are of no single sweep, or no trial of the strategy has finished.
    """
    if records.plan is None:
        raise UserError("a judgement needs the plan of one sweep: read_records(storage, sweep=NAME).")
    metric = records.plan.metric
    if records.plan.mode == "min":
        raise UserError(f"metric '{metric}': a judgement needs a metric of which more is better.")
    arms = arms_of(records.trials, metric)
    judged = [arm for arm in arms if arm.strategy == strategy]
    if not judged:
        names = sorted({arm.strategy for arm in arms})
        raise unknown("strategy", strategy, names, where=f"the finished trials of '{records.plan.name}'")
    contests = [contest for arm in judged if (contest := _contest(arm, arms, strategy)) is not None]
    costs = [cost for arm in arms if (cost := _cost(arm, arms)) is not None]
    harmful = {
        (cost.arm.setting, cost.arm.clean, cost.arm.harmful): cost.difference.bounds.high < 0
        for cost in costs
        if cost.arm.strategy == WITNESS
    }
    truths = [truth for arm in judged for truth in _truths(arm, arms, records, harmful)]
    return Judgement(
        strategy=strategy,
        metric=metric,
        contests=tuple(contests),
        costs=tuple(costs),
        truths=tuple(truths),
        harmful=harmful,
        notes=(*incomplete_note(records.trials), *records.plan.notes),
    )


def difference(values: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """The paired difference of two arms on their common seeds, with one-sided 95 % bounds.

    Differences that are equal on every seed (quantised accuracies of few seeds) have no variance, so no
    bounds, unless all are 0: the cautious reading, as in ``stats.paired``.
    """
    plain = paired(values, other)
    if plain.constant:
        return Difference(plain.difference)
    common = sorted(set(values) & set(other))
    return Difference(interval([values[seed] - other[seed] for seed in common], ONE_SIDED))


def comparators(arm: Arm, arms: Iterable[Arm], strategy: str) -> list[Arm]:
    """What ``arm`` is compared with: the student alone, each of its clean paths alone, and every other
    strategy on the same paths, those of its own name excepted (searched, or with other options)."""
    found = []
    for other in arms:
        mine = other.strategy == strategy or other.strategy.startswith((f"{strategy} (", f"{strategy} ["))
        if other.setting != arm.setting or mine:
            continue
        same = (other.clean, other.harmful) == (arm.clean, arm.harmful)
        if same or (other.is_alone and not other.harmful and other.clean <= arm.clean):
            found.append(other)
    return found


def _contest(arm: Arm, arms: list[Arm], strategy: str) -> Contest | None:
    others = [other for other in comparators(arm, arms, strategy) if set(other.test) & set(arm.test)]
    if not others:
        return None
    best = max(others, key=lambda other: _mean(other.validation, arm.validation))
    return Contest(
        arm=arm,
        comparator=best,
        validation=(_mean(arm.validation, best.validation), _mean(best.validation, arm.validation)),
        difference=difference(arm.test, best.test),
        candidates=tuple(other.strategy for other in others),
    )


def _mean(values: Mapping[int, float], shared: Mapping[int, float]) -> float:
    """Mean over the seeds that both have."""
    both = [value for seed, value in values.items() if seed in shared]
    return float(np.mean(both)) if both else -math.inf


def _cost(arm: Arm, arms: list[Arm]) -> Cost | None:
    if not arm.harmful or not arm.clean:
        return None
    without = [
        other
        for other in arms
        if (other.setting, other.clean, other.strategy) == (arm.setting, arm.clean, arm.strategy)
        and not other.harmful
    ]
    return Cost(arm, difference(arm.test, without[0].test)) if without else None


def _truths(
    arm: Arm,
    arms: list[Arm],
    records: Records,
    harmful: Mapping[tuple[str, frozenset[str], frozenset[str]], bool],
) -> list[Truth]:
    alone = next((a for a in arms if a.setting == arm.setting and a.strategy == ALONE), None)
    singles = {
        next(iter(a.clean)): a
        for a in arms
        if a.setting == arm.setting and len(a.clean) == 1 and not a.harmful and a.strategy.endswith(" alone")
    }
    fair = 1 / (len(arm.clean) + len(arm.harmful))
    truths = []
    for share in shares_of(arm, records.whole_paths):
        if share.path in arm.harmful:
            counts = harmful.get((arm.setting, arm.clean, arm.harmful))
            truths.append(Truth(arm, share, True, counts, limit=0.05))
            continue
        single = singles.get(share.path)
        helps = None
        if single is not None and alone is not None:
            helps = difference(single.test, alone.test).bounds.low > 0
        truths.append(Truth(arm, share, False, helps, limit=fair / 2))
    return truths

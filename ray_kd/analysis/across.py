"""Strategies across tasks: verdicts counted, and gains as a share of the gap from student to teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy import stats

from ray_kd.analysis.comparison import Cell, Comparison, Teacher
from ray_kd.statistics.intervals import Interval, interval
from ray_kd.statistics.looks import Verdict
from ray_kd.statistics.ratio import ratio


@dataclass(frozen=True)
class Gap:
    """The gap between teacher and student alone in one task: what distillation can gain at most."""

    task: str
    comparison: Comparison
    teacher: float
    """Test metric of the teacher, from the records of the runs that trained it: their mean; of several models
    that of the better one."""
    by_seed: Mapping[int, float]
    """The test metric of each seed's teacher, of that model; its mean where seeds share one."""
    own: bool
    """Whether seeds have teachers of their own, so that the intervals include the teachers' spread."""
    size: Interval
    """Teacher minus student alone, paired by seed, > 0 where the teacher is better; a 95 % t-interval."""

    @property
    def trouble(self) -> str | None:
        """Why gains are undefined in this task; None where they are defined."""
        if self.comparison.plan.baseline is None:
            return "the sweep names no baseline"
        if self.comparison.baseline is None:
            return "the baseline has no finished trial"
        if math.isnan(self.teacher):
            return "no finished run of a teacher is on record"
        if math.isnan(self.size.low):
            return "with one seed the gap has no interval"
        if self.size.low <= 0 <= self.size.high:
            return "the 95 % interval of the gap includes 0"
        return "the teacher is worse than the student alone" if self.size.high < 0 else None


@dataclass(frozen=True)
class Standing:
    """One strategy in all tasks."""

    name: str
    cells: Mapping[str, Cell]
    """Its cell in each task that has one."""
    ranks: Mapping[str, float]
    """By the mean of the primary metric; 1 is the highest, ties share a rank; of strategies that all tasks
    have."""
    gains: Mapping[str, Interval]
    """(student - alone) / (teacher - alone) by task, a ratio of means, with Fieller's interval at the error
    of the verdict's (``statistics.ratio``): both differences are uncertain, and it includes 0 exactly where
    the strategy's does. Tasks where it is undefined are missing. The winner of a search stands beside that of
    the baseline's own search."""
    mean_gain: float
    """Mean over the tasks where a gain is defined; nan where the strategy is missing in one of them."""

    def tasks_of(self, verdict: Verdict) -> int:
        """In how many tasks the verdict on it is ``verdict``."""
        return sum(1 for cell in self.cells.values() if cell.versus and cell.versus.verdict is verdict)

    @property
    def mean_rank(self) -> float:
        """Mean over tasks; nan where a task lacks the strategy."""
        return sum(self.ranks.values()) / len(self.ranks) if self.ranks else math.nan


@dataclass(frozen=True)
class Across:
    """All strategies over all tasks of a sweep, in the plan's order."""

    name: str
    baseline: str | None
    gaps: tuple[Gap, ...]
    standings: tuple[Standing, ...]
    notes: tuple[str, ...] = field(default=())
    """The plan's own notes."""

    @property
    def compared(self) -> list[Standing]:
        """The strategies that have a reference in some task."""
        return [one for one in self.standings if any(cell.versus for cell in one.cells.values())]


def across_tasks(name: str, comparisons: Mapping[str, Comparison], notes: tuple[str, ...] = ()) -> Across:
    """Combine the comparisons of several tasks; strategies are matched by name."""
    gaps = tuple(_gap(task, comparison) for task, comparison in comparisons.items())
    cells = {task: {cell.name: cell for cell in comparison.cells} for task, comparison in comparisons.items()}
    names = list(dict.fromkeys(strategy for of_task in cells.values() for strategy in of_task))
    everywhere = [one for one in names if all(one in known and known[one].n for known in cells.values())]
    ranks = {task: _ranks(comparison, everywhere) for task, comparison in comparisons.items()}
    standings = []
    for strategy in names:
        mine = {task: known[strategy] for task, known in cells.items() if strategy in known}
        found = {gap.task: _gain(gap, mine[gap.task]) for gap in gaps if not gap.trouble and gap.task in mine}
        found = {task: gain for task, gain in found.items() if not math.isnan(gain.mean)}
        complete = len(found) == sum(1 for gap in gaps if not gap.trouble)
        standings.append(
            Standing(
                name=strategy,
                cells=mine,
                ranks={task: of_task[strategy] for task, of_task in ranks.items() if strategy in of_task},
                gains=found,
                mean_gain=_mean([gain.mean for gain in found.values()]) if complete else math.nan,
            )
        )
    baseline = next((comparison.plan.baseline for comparison in comparisons.values()), None)
    return Across(name, baseline, gaps, tuple(standings), notes)


def _sign(comparison: Comparison) -> float:
    return 1.0 if comparison.metric.mode == "max" else -1.0


def _gap(task: str, comparison: Comparison) -> Gap:
    sign = _sign(comparison)
    teachers: dict[tuple[str, str], list[Teacher]] = {}
    for one in comparison.teachers:
        teachers.setdefault((one.name, one.model), []).append(one)
    best = max(teachers.values(), key=lambda runs: sign * _mean([one.value for one in runs]), default=[])
    teacher = _mean([one.value for one in best])
    alone = comparison.baseline.seeds if comparison.baseline is not None else {}
    by_seed = {seed: one.value for one in best for seed in one.seeds}
    own = len(best) > 1 and alone.keys() <= by_seed.keys()
    by_seed = by_seed if own else {} if math.isnan(teacher) else dict.fromkeys(alone, teacher)
    known = [sign * (by_seed[seed] - value) for seed, value in alone.items() if seed in by_seed]
    overlap = comparison.plan.overlap(comparison.plan.baseline)
    return Gap(task, comparison, teacher, by_seed, own, interval(known, overlap=overlap))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _gain(gap: Gap, cell: Cell) -> Interval:
    """Of the seeds of the verdict's look; before one, of those that both have, and without bounds."""
    versus = cell.versus
    if versus is None:
        return Interval(0.0, math.nan, math.nan, cell.n)
    alone = next((other.seeds for other in gap.comparison.cells if other.name == versus.reference), {})
    seeds = versus.seeds(cell.seeds, alone)
    above = [cell.seeds[seed] - alone[seed] for seed in seeds]
    below = [gap.by_seed.get(seed, gap.teacher) - alone[seed] for seed in seeds]
    if math.isnan(versus.difference.low):  # no look has been reached, or seeds were lost
        size = _mean(below)
        return Interval(_mean(above) / size if size else math.nan, math.nan, math.nan, len(seeds))
    return ratio(above, below, versus.looks.error(versus.judged.look), versus.looks.overlap)


def _ranks(comparison: Comparison, names: list[str]) -> dict[str, float]:
    means = {cell.name: cell.best.mean for cell in comparison.cells if cell.name in names}
    ranks = stats.rankdata([-_sign(comparison) * value for value in means.values()])
    return {name: float(rank) for name, rank in zip(means, ranks, strict=True)}

"""Compare the cells of a sweep: what entered, the means, and the verdicts beside the baseline."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ray_kd.analysis.convergence import Doubling, Repeat, controls, repeats
from ray_kd.analysis.records import Plan, Records, by_cell, incomplete_note
from ray_kd.analysis.verdicts import Versus, verdicts
from ray_kd.config.cells import SEARCHED, searched_name
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError, unknown
from ray_kd.statistics.best import Best, best
from ray_kd.statistics.intervals import Interval, interval
from ray_kd.statistics.looks import Verdict
from ray_kd.trials.family import Family

_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "map": "mAP",
    "map50": "mAP50",
    "map75": "mAP75",
    "ap": "AP",
}
_AGREEMENTS = {
    "miou": "share of test pixels on which the student's class is the teacher's",
    "map": "mAP of the student against the teacher's detections on test data",
}


@dataclass(frozen=True)
class Metric:
    """The metric that a sweep compares, and how to print it."""

    name: str
    mode: str = "max"
    rate: bool = True
    """A fraction, printed as percentage (points); else printed as it is."""

    @property
    def title(self) -> str:
        """Its name as people write it."""
        return _TITLES.get(self.name, self.name.replace("_", " "))

    @property
    def agreement(self) -> str:
        """What the column of agreement means for this metric."""
        first = "share of test samples on which the student agrees with the teacher's first choice"
        return _AGREEMENTS.get(self.name, first)

    @property
    def scale(self) -> float:
        """From the stored number to the printed one."""
        return 100.0 if self.rate else 1.0

    @property
    def digits(self) -> int:
        """Decimals worth printing."""
        return 2 if self.rate else 4

    @property
    def percent(self) -> str:
        """The unit of the printed number."""
        return "%" if self.rate else ""

    @property
    def points(self) -> str:
        """The unit of a printed difference."""
        return "points" if self.rate else ""

    def better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``."""
        return value > other if self.mode == "max" else value < other


@dataclass(frozen=True)
class Cell:
    """One strategy over its seeds. Only finished trials of phase ``compare`` count."""

    name: str
    planned: int
    statuses: dict[str, int]
    """How many planned trials have each status."""
    seeds: dict[int, float]
    """The primary metric of each seed: the test metric of the weights that were best on validation."""
    best: Interval
    """The primary metric over the seeds, with a 95 % interval of its own, which decides nothing."""
    last: Interval
    """The test metric of the last weights."""
    agreement: Interval
    """Agreement with the teacher on test data, of the weights that were best on validation."""
    seconds: Interval
    """Wall seconds of training."""
    versus: Versus | None = None
    """Beside its reference; None for a reference itself and where there is none."""

    @property
    def searched(self) -> bool:
        """Whether a search chose its settings."""
        return self.name.endswith(SEARCHED)

    @property
    def needed(self) -> int:
        """Planned trials, without those that a look made needless."""
        return self.planned - self.statuses.get(Ending.NOT_NEEDED.value, 0)

    @property
    def n(self) -> int:
        """Trials that count."""
        return len(self.seeds)


@dataclass(frozen=True)
class Teacher:
    """A finished run of a teacher."""

    name: str
    """As ``teachers`` of the sweep file calls it; empty where its run does not tell."""
    model: str
    """With the paths along which it was taught itself."""
    value: float
    """The test metric of its best-on-validation weights."""
    seeds: frozenset[int] = frozenset()
    """The seeds whose compared trials it teaches, as far as the plan says."""


@dataclass(frozen=True)
class Comparison:
    """The cells of one sweep, in the plan's order."""

    plan: Plan
    metric: Metric
    cells: tuple[Cell, ...]
    searched: int
    """Trials of phase ``search``; they chose settings on validation data and do not count."""
    doublings: tuple[Doubling, ...]
    """What training twice as long gained, from the trials of phase ``control``."""
    teachers: tuple[Teacher, ...]
    """Each finished run of a teacher."""
    later: tuple[str, ...]
    """Cells of the plan that have no trial yet: the winner of a search is known when the search ends."""
    unfinished: pd.DataFrame
    """Cell, seed, phase, status, reason and identity of every needed trial that did not finish."""
    precisions: dict[str, int]
    """How many of the trials that count ran in each precision, where it is known."""
    damage: tuple[str, ...] = ()
    """Notes on incomplete records."""
    repeats: tuple[Repeat, ...] = ()
    """Cells that were trained again with a disturbance in the last bits."""

    @property
    def baseline(self) -> Cell | None:
        """The cell that the others are compared with, if it has a finished trial."""
        return next((cell for cell in self.cells if cell.name == self.plan.baseline and cell.n), None)

    def is_reference(self, cell: Cell) -> bool:
        """Whether others are compared with ``cell``: the baseline, or its searched form."""
        baseline = self.plan.baseline
        return baseline is not None and cell.name in (baseline, searched_name(baseline))

    @property
    def compared(self) -> list[Cell]:
        """The strategies that have a reference."""
        return [cell for cell in self.cells if cell.versus is not None]

    @property
    def started(self) -> bool:
        """Whether any trial has finished."""
        return any(cell.n for cell in self.cells)

    def foremost(self, most: int) -> list[Cell]:
        """All cells, in the plan's order. Where more than ``most`` stand beside the references: these, and so
        many with the best means, strategies with the verdict "better" before all others."""
        references = [cell.name for cell in self.cells if self.is_reference(cell)]
        others = [cell for cell in self.cells if cell.name not in references]
        sign = 1.0 if self.metric.mode == "max" else -1.0

        def rank(cell: Cell) -> tuple[bool, float]:
            better = cell.versus is not None and cell.versus.verdict is Verdict.BETTER
            return better, sign * cell.best.mean if cell.n else -math.inf

        kept = {*references, *(cell.name for cell in sorted(others, key=rank, reverse=True)[:most])}
        return [cell for cell in self.cells if cell.name in kept]

    def left_out(self, most: int) -> str:
        """A sentence that says which cells ``foremost`` leaves out; empty where it leaves out none."""
        if len(self.foremost(most)) == len(self.cells):
            return ""
        return (
            f"Of {len(self.cells):,} strategies these are the {most} with the best means, beside the "
            "baseline; better ones come before all others. table.csv has all."
        )

    @cached_property
    def one_look(self) -> Family | None:
        """The family of all strategies, if they were declared together, with one look, and all of its trials
        have ended; else None.

        Who may be best can be asked of that alone: with several looks strategies stop at different numbers of
        seeds, where chance made them look good or bad.
        """
        versus = [cell.versus for cell in self.cells if cell.versus is not None]
        if not versus or any(one.family is not versus[0].family for one in versus):
            return None
        family = versus[0].family
        first = family.looks[0]
        if not family.one_look or first < 2 or any(one.judged.look != first for one in versus):
            return None
        return family

    @cached_property
    def contenders(self) -> Best | None:
        """Simultaneous comparison with the best, over all cells; None where the design cannot ask that."""
        if self.one_look is None:
            return None
        values = {cell.name: cell.seeds for cell in self.cells}
        return best(self.one_look.judged_by, self.one_look.seeds, values, self.metric.mode == "max")


def compare_cells(records: Records, plan: Plan | None = None) -> Comparison:
    """Statistics of the trials of one sweep (``plan`` defaults to the one the records came with).

    The primary metric is the *test* metric of the weights that were best on *validation*; that of the last
    weights is reported beside it and decides nothing. A cell is compared with the baseline seed by seed, the
    winner of a search with that of the baseline's own search, where it has one: by repeated intervals at the
    plan's looks (``ray_kd.statistics.looks``). A plan without looks has one, at all its seeds.

    Raises:
        UserError: no plan, or no finished trial recorded the plan's metric.
    """
    plan = plan or records.plan
    if plan is None:
        raise UserError("a comparison needs the plan of one sweep: read_records(storage, sweep=NAME).")
    trials = records.trials
    metric = _metric(trials, plan)
    compared = trials[trials["phase"] == "compare"]
    cells = _cells(compared, plan, metric)
    unfinished = trials[~trials["status"].isin([Ending.FINISHED.value, Ending.NOT_NEEDED.value])]
    known = set(trials["cell"])
    later = tuple(name for name in plan.cells if name not in known)
    figures = {cell.name: cell.seeds for cell in cells}
    known_baseline = bool(figures.get(str(plan.baseline)))
    beside = verdicts(compared, figures, plan.design, metric.mode == "max") if known_baseline else {}
    return Comparison(
        plan=plan,
        metric=metric,
        cells=tuple(dataclasses.replace(cell, versus=beside.get(cell.name)) for cell in cells),
        searched=int((trials["phase"] == "search").sum()),
        doublings=tuple(controls(trials, plan, metric.name, metric.mode)),
        teachers=_teachers(trials, metric),
        later=later,
        unfinished=unfinished[["cell", "seed", "phase", "status", "reason", "identity"]],
        precisions=dict(Counter(compared[compared["status"] == "finished"]["precision"].dropna().map(str))),
        damage=tuple(incomplete_note(trials)),
        repeats=tuple(repeats(trials, plan, metric.name)),
    )


def _metric(trials: pd.DataFrame, plan: Plan) -> Metric:
    column = f"best_test_{plan.metric}"
    finished = trials[trials["status"] == "finished"]
    values = finished[column].dropna() if column in finished else pd.Series(dtype=float)
    if len(finished) and values.empty:
        prefix = "best_test_"
        known = [name.removeprefix(prefix) for name in map(str, finished) if name.startswith(prefix)]
        known = [name for name in known if finished[prefix + name].notna().any()]
        raise unknown("metric", plan.metric, known, where=f"the plan of sweep '{plan.name}'")
    rate = "loss" not in plan.metric and bool(values.between(0, 1).all())
    return Metric(plan.metric, plan.mode, rate)


_TEACHER_NAME = re.compile(r".*, seed \d+-(.+)$", re.DOTALL)
"""In the name of its run: the first trial's that it teaches, and its own."""


def _teachers(trials: pd.DataFrame, metric: Metric) -> tuple[Teacher, ...]:
    column = f"best_test_{metric.name}"
    done = trials[(trials["phase"] == "teacher") & (trials["status"] == "finished")]
    if column not in done:
        return ()
    seeds: dict[str, set[int]] = {}
    taught = trials[(trials["phase"] == "compare") & trials["teachers"].notna() & trials["seed"].notna()]
    for seed, teachers in taught[["seed", "teachers"]].itertuples(index=False):
        for identity in str(teachers).split():
            seeds.setdefault(identity, set()).add(int(seed))
    found = []
    for row in done.dropna(subset=["student", "parameters", column]).to_dict("records"):
        how = f", taught along {row['paths']}" if isinstance(row["paths"], str) and row["paths"] else ""
        model = f"{row['student']}, {int(row['parameters']):,} parameters{how}"
        named = _TEACHER_NAME.search(str(row["name"]))
        name = named[1] if named else ""
        found.append(Teacher(name, model, float(row[column]), frozenset(seeds.get(row["identity"], ()))))
    return tuple(found)


def _cells(compared: pd.DataFrame, plan: Plan, metric: Metric) -> list[Cell]:
    """The cells that have trials, in the plan's order; those that it does not list come last."""
    statuses: dict[str, Counter[str]] = {}
    for name, status in zip(compared["cell"], compared["status"], strict=True):
        statuses.setdefault(str(name), Counter())[str(status)] += 1
    names = [name for name in plan.cells if name in statuses]
    names += [name for name in statuses if name not in set(names)]
    finished = compared[compared["status"] == Ending.FINISHED.value]
    primary = by_cell(finished, f"best_test_{metric.name}")
    columns = {
        "best": f"best_test_{metric.name}",
        "last": f"last_test_{metric.name}",
        "agreement": "best_test_agreement",
        "seconds": "seconds",
    }
    figures = {field: by_cell(finished, column) for field, column in columns.items()}

    def over_seeds(name: str, field: str) -> Interval:
        own = primary.get(name, {})
        values = [value for seed, value in figures[field].get(name, {}).items() if seed in own]
        return interval(values, overlap=plan.overlap(name))

    return [
        Cell(
            name=name,
            planned=statuses[name].total(),
            statuses=dict(statuses[name]),
            seeds=primary.get(name, {}),
            best=over_seeds(name, "best"),
            last=over_seeds(name, "last"),
            agreement=over_seeds(name, "agreement"),
            seconds=over_seeds(name, "seconds"),
        )
        for name in names
    ]

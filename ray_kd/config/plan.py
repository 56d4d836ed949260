"""The plan of a sweep: all trials, what each trains, and its phase."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ray_kd.config.cells import Cell, Overrides, searched_name, strategy_name
from ray_kd.config.chance import Source, chances, own_sources, redraw
from ray_kd.config.errors import UserError
from ray_kd.config.registry import TASKS
from ray_kd.config.seeds import SeedLooks
from ray_kd.config.spec import RunSpec
from ray_kd.config.yamlio import set_key

if TYPE_CHECKING:
    from ray_kd.config.sweep import Search, SweepSpec

Phase = Literal["compare", "control", "search"]
RESERVED = {
    "seed": "'seeds' of the sweep and its 'vary' set it",
    "storage": "all trials of a sweep use the base's",
}


@dataclass(frozen=True)
class Trial:
    """One cell of a sweep with one seed. Trials with the same identity are served by one run."""

    identity: str
    cell: str
    seed: int
    phase: Phase
    spec: RunSpec = field(repr=False)
    overrides: Overrides
    axes: dict[str, Any] = field(default_factory=dict)
    candidate: int | None = None
    """The number of the candidate in its cell's search; None outside a search."""
    vary: tuple[Source, ...] = ()
    """The sources of chance that its seed redraws."""
    teachers: dict[str, RunSpec] = field(default_factory=dict, repr=False)
    """The runs that train its teachers, and theirs, by identity."""

    def to_json(self) -> dict[str, Any]:
        """The trial as plan.json holds it."""
        keys = ("identity", "cell", "seed", "phase", "overrides", "axes")
        entry = {key: getattr(self, key) for key in keys}
        entry["task"] = self.spec.task.component_name
        entry["teachers"] = list(self.teachers)
        return entry if self.candidate is None else {**entry, "candidate": self.candidate}


@dataclass(frozen=True)
class LaterTrials:
    """Trials that will be added to the plan, but whose settings depend on trials that must finish first."""

    cell: str
    phase: Phase
    count: int
    why: str


@dataclass
class Plan:
    """All trials of a sweep, and the teachers that they need.

    Attributes:
        trials: search candidates, compared trials and controls that are known before the sweep starts.
        later: trials that are not known yet, by cell.
        teachers: the runs that train the teachers, each once and after those that it learns from.
    """

    name: str
    baseline: str | None
    metric: str
    mode: str
    cells: tuple[str, ...]
    trials: list[Trial]
    later: list[LaterTrials]
    teachers: list[RunSpec]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """The content of plan.json."""
        first: dict[str, Trial] = {}
        for trial in self.trials:
            first.setdefault(trial.cell, trial)
        return {
            "name": self.name,
            "baseline": self.baseline,
            "metric": self.metric,
            "mode": self.mode,
            "cells": list(self.cells),
            "chance": chances((cell, one.spec, one.vary) for cell, one in first.items()),
            "repeats": list(dict.fromkeys(one.cell for one in self.trials if one.spec.training.disturb)),
            "trials": [trial.to_json() for trial in self.trials],
            "teachers": [teacher.identity() for teacher in self.teachers],
            "notes": self.notes,
        }

    def metric_of(self, spec: RunSpec) -> str:
        """The name of the metric; for ``monitor`` the one that the run's task monitors."""
        task: Any = TASKS.get(spec.task.component_name) if self.metric == "monitor" else None
        return self.metric if task is None else str(task.monitor)

    @property
    def size(self) -> int:
        """How many runs serve the trials, later ones included, without teachers."""
        return len({trial.identity for trial in self.trials}) + sum(entry.count for entry in self.later)


class TrialMaker:
    """Makes the trials of one sweep; each combination of overrides is parsed once."""

    def __init__(self, sweep: SweepSpec) -> None:
        self.sweep = sweep
        self.base = copy.deepcopy(sweep.base)
        for key, value in sweep.resources.model_dump(exclude_none=True).items():
            set_key(self.base, f"resources.{key}", value)
        self._known: dict[str, tuple[RunSpec, tuple[Source, ...]]] = {}

    def make(
        self,
        cell: Cell,
        seed: int,
        phase: Phase,
        extra: Overrides | None = None,
        candidate: int | None = None,
    ) -> Trial:
        """A trial of ``cell`` with ``extra`` overrides on top."""
        extra = extra or {}
        overrides = {**cell.overrides, **extra}
        parsed, vary = self._parsed(cell.name, overrides)
        spec = redraw(parsed, seed, vary).model_copy(
            update={"name": f"{self.sweep.name}: {cell.name}, seed {seed}"}
        )
        return Trial(
            identity=spec.identity(),
            cell=cell.name,
            seed=seed,
            phase=phase,
            spec=spec,
            overrides={**overrides, "seed": seed},
            axes={**cell.axes, **extra},
            candidate=candidate,
            vary=vary,
            teachers={run.identity(): run for run in spec.teacher_runs().values()},
        )

    def _parsed(self, cell: str, overrides: Mapping[str, Any]) -> tuple[RunSpec, tuple[Source, ...]]:
        """A cell's run, and what its seeds redraw."""
        known = f"{cell}\x1f{overrides!r}"
        if known not in self._known:
            where = f"sweep '{self.sweep.name}', cell '{cell}'"
            data = copy.deepcopy(self.base)
            try:
                vary = own_sources(overrides, self.sweep.vary)
                for key, value in overrides.items():
                    if key == "vary":  # of the cell, not of its runs
                        continue
                    if key in RESERVED:
                        raise UserError(f"'{key}' cannot differ from cell to cell: {RESERVED[key]}.")
                    set_key(data, key, copy.deepcopy(value))
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            self._known[known] = RunSpec.parse(data, where=where), vary
        return self._known[known]


def proposals(search: Search) -> Iterator[Overrides]:
    """The candidates of a grid or random search: the same for every cell, whatever the budget.

    Each draw depends only on (search seed, index, key), so a search that is run again, or with a larger
    budget, repeats its earlier candidates.
    """
    if search.method == "grid":
        choices = [space.choice or () for space in search.space.values()]
        for values in itertools.product(*choices):
            yield dict(zip(search.space, values, strict=True))
        return
    for index in range(search.budget):
        yield {
            key: space.sample(random.Random(f"{search.seed}/{index}/{key}"))
            for key, space in search.space.items()
        }


def make_plan(sweep: SweepSpec) -> Plan:
    """Expand a sweep: see ``SweepSpec.plan``."""
    maker = TrialMaker(sweep)
    cells = {cell.name: cell for cell in sweep.all_cells()}
    seeds, control_seeds = sweep.all_seeds, sweep.seeds_of_controls
    trials: list[Trial] = []
    later: list[LaterTrials] = []
    for search in sweep.search:
        for name in sweep.searched_by(search):
            if search.method == "optuna":
                _try_some(maker, cells[name], search)
            known = () if search.method == "optuna" else enumerate(proposals(search))
            trials += [
                maker.make(cells[name], seed, "search", extra, index)
                for index, extra in known
                for seed in search.seeds
            ]
            later += _later(search, name, len(seeds))
    for cell in cells.values():
        trials += [maker.make(cell, seed, "compare") for seed in seeds]
    for name, overrides in sweep.controls.items():
        control = Cell(name=name, overrides=overrides)
        trials += [maker.make(control, seed, "control") for seed in control_seeds]
    _check_grace(sweep, trials)
    _check_tasks(sweep, trials)
    _check_baselines(sweep, trials)
    return Plan(
        name=sweep.name,
        baseline=sweep.baseline,
        metric=sweep.metric.name,
        mode=sweep.metric.mode,
        cells=tuple(sweep.compared()),
        trials=trials,
        later=later,
        teachers=teachers_of(trials),
        notes=_notes(sweep, trials),
    )


def _try_some(maker: TrialMaker, cell: Cell, search: Search) -> None:
    """Raise if none of some candidates of a learning search is valid: then one of its keys is wrong."""
    for index, overrides in enumerate(itertools.islice(proposals(search), 5)):
        try:
            maker.make(cell, search.seeds[0], "search", overrides, index)
            return
        except UserError as error:
            found = error
    raise found


def _check_grace(sweep: SweepSpec, trials: list[Trial]) -> None:
    shortest = min(trial.spec.training.epochs for trial in trials)
    if sweep.scheduler is not None and sweep.scheduler.grace_epochs >= shortest:
        raise UserError(
            f"sweep '{sweep.name}': scheduler.grace_epochs: expected fewer than the {shortest} epochs of the "
            f"shortest trial, got {sweep.scheduler.grace_epochs}."
        )


def _check_tasks(sweep: SweepSpec, trials: list[Trial]) -> None:
    """Refuse settings that would compare metrics of different tasks."""
    tasks = ", ".join(dict.fromkeys(trial.spec.task.component_name for trial in trials))
    if ", " not in tasks:
        return
    if sweep.metric.name != "monitor":
        raise UserError(
            f"sweep '{sweep.name}': metric: the trials are of several tasks ({tasks}), which have no metric "
            f"in common; expected 'monitor', each task's own, got '{sweep.metric.name}'."
        )
    if sweep.scheduler is not None and not sweep.search:
        raise UserError(
            f"sweep '{sweep.name}': scheduler: trials of several tasks ({tasks}) cannot be compared with "
            "each other; expected none, or a search, which compares candidates within a cell."
        )


def _check_baselines(sweep: SweepSpec, trials: list[Trial]) -> None:
    """Refuse looks where a task has no baseline: nothing in it could be decided."""
    if not isinstance(sweep.seeds, SeedLooks):
        return
    names: dict[str, set[str]] = {}
    for trial in trials:
        both = {trial.cell, strategy_name(trial.cell, trial.axes)}
        names.setdefault(trial.spec.task.component_name, set()).update(
            both if trial.phase == "compare" else ()
        )
    wanted = {strategy_name(trial.cell, trial.axes) for trial in trials if trial.cell == sweep.baseline}
    for task, known in names.items():
        if not known & {*wanted, str(sweep.baseline)}:
            raise UserError(
                f"sweep '{sweep.name}': seeds.looks: task {task} has no cell of the baseline "
                f"'{sweep.baseline}', so nothing in it could be decided; add one, or give a list of seeds."
            )


def _later(search: Search, cell: str, seeds: int) -> list[LaterTrials]:
    later = []
    if search.method == "optuna":
        count = search.budget * len(search.seeds)
        later.append(LaterTrials(cell, "search", count, "optuna proposes them"))
    later.append(LaterTrials(searched_name(cell), "compare", seeds, "the search's winner"))
    return later


def teachers_of(trials: list[Trial]) -> list[RunSpec]:
    """The runs that train the teachers of these trials, and their teachers, one for each identity."""
    found: dict[str, RunSpec] = {}
    for trial in trials:
        for identity, run in trial.teachers.items():
            found.setdefault(identity, run)
    return list(found.values())


def _notes(sweep: SweepSpec, trials: list[Trial]) -> list[str]:
    notes = []
    if all(trial.spec.training.disturb for trial in trials if trial.phase == "control"):
        notes.append(
            "No control run checks whether training was long enough; differences between cells may change "
            "with more epochs (add 'controls' with twice the epochs)."
        )
    for search in sweep.search:
        names = sweep.searched_by(search)
        seeds = ", ".join(str(seed) for seed in search.seeds)
        who = ", ".join(f"“{name}”" for name in names) if len(names) <= 6 else f"{len(names)} cells"
        notes.append(
            f"Searched in {who} ({search.method}, {search.budget} candidates for each, validation "
            f"{sweep.metric.name}, seed {seeds}): {', '.join(search.space)}."
        )
    if sweep.scheduler is not None and not sweep.search:
        notes.append(
            f"The scheduler ({sweep.scheduler.name}) stops compared trials, so the seeds that a cell has "
            "left are a selection; the baseline is never stopped."
        )
    runs: dict[str, set[str]] = {}
    for trial in trials:
        if trial.phase != "search":
            runs.setdefault(trial.cell, set()).add(trial.identity)
    same: dict[frozenset[str], list[str]] = {}
    for cell, identities in runs.items():
        same.setdefault(frozenset(identities), []).append(cell)
    notes += [
        f"The same runs serve {' and '.join(f'“{name}”' for name in cells)}."
        for cells in same.values()
        if len(cells) > 1
    ]
    return notes

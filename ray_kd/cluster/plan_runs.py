"""The runs of a plan, counted by what they cost: runs that differ only in their seed cost the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ray_kd.config.plan import Plan
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.preflight import essence_of_parts


@dataclass
class Alike:
    """Runs with the same settings apart from seeds.

    Attributes:
        spec: one of them.
        runs: identity -> the teachers' runs that it waits for, of all of them.
        fewest: the identities of those that are trained in any case.
    """

    spec: RunSpec
    teacher: bool
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fewest: set[str] = field(default_factory=set)


@dataclass
class PlannedRuns:
    """All runs of a plan.

    Attributes:
        alike: the kinds of runs, teachers first.
        later: how many trials will be known only when a search has ended, and the fewest of these.
    """

    alike: list[Alike]
    later: int
    later_fewest: int

    @property
    def fewest(self) -> int:
        """How many trials there are if the first look decides every strategy."""
        return self.later_fewest + sum(len(one.fewest) for one in self.alike if not one.teacher)

    def total(self, cost: Callable[[Alike], float | None]) -> tuple[float, float]:
        """The fewest and the most of something over all runs; trials known later cost what the others do.

        Args:
            cost: of one run; None: unknown, and counted as the mean of the known ones.
        """
        costs = [(one, cost(one)) for one in self.alike]
        totals = []
        for fewest in (True, False):
            known = trials = 0.0
            number = unknown = 0
            for one, each in costs:
                count = len(one.fewest if fewest else one.runs)
                if each is None:
                    unknown += count
                    continue
                known += count * each
                if not one.teacher:
                    trials, number = trials + count * each, number + count
            more = unknown + (self.later_fewest if fewest else self.later)
            totals.append(known + more * trials / max(1, number))
        return totals[0], totals[1]


def planned_runs(sweep: SweepSpec, plan: Plan, first_look: int | None = None) -> PlannedRuns:
    """Gather the runs of a plan.

    Args:
        first_look: seeds of the first look of the design; None: those that the sweep file says.
    """
    first_look = first_look or (sweep.looks or (None,))[0]
    first = set(sweep.all_seeds if sweep.looks is None else sweep.all_seeds[:first_look])
    keys: dict[tuple[str, str, int | None], str] = {}
    found: dict[str, Alike] = {}
    taught: dict[str, tuple[str, ...]] = {}
    needed: set[str] = set()
    for trial in plan.trials:
        cell = (trial.cell, trial.phase, trial.candidate)
        if cell not in keys:
            keys[cell] = alike_key(trial.spec)
        one = found.setdefault(keys[cell], Alike(trial.spec, teacher=False))
        one.runs[trial.identity] = tuple(trial.teachers)
        for place, identity in enumerate(trial.teachers):  # each comes after those that it learns from
            taught.setdefault(identity, tuple(trial.teachers)[:place])
        if trial.phase != "compare" or trial.seed in first:
            one.fewest.add(trial.identity)
            needed.update(trial.teachers)
    teachers: dict[str, Alike] = {}
    for run in plan.teachers:
        one = teachers.setdefault(alike_key(run), Alike(run, teacher=True))
        identity = run.identity()
        one.runs[identity] = taught.get(identity, ()) if run.teachers else ()
        if identity in needed:
            one.fewest.add(identity)
    later = sum(entry.count for entry in plan.later)
    fewest = sum(
        min(entry.count, len(first)) if entry.phase == "compare" else entry.count for entry in plan.later
    )
    return PlannedRuns([*teachers.values(), *found.values()], later, fewest)


def alike_key(spec: RunSpec) -> str:
    """Equal for runs that take the same time and room: they differ in seeds, rates and schedules only."""
    training, optimizer = spec.training.model_dump(mode="json"), spec.optimizer
    return _text([essence_of_parts(spec), training, optimizer.name, optimizer.options])


def pace_key(spec: RunSpec) -> str:
    """Equal for runs whose epochs take the same time."""
    training, optimizer = spec.training.model_dump(mode="json", exclude={"epochs"}), spec.optimizer
    return _text([essence_of_parts(spec), training, optimizer.name, optimizer.options])


def size_key(spec: RunSpec) -> str:
    """Equal for runs whose networks and files have the same sizes."""
    training, optimizer = spec.training, spec.optimizer
    settings = [optimizer.name, optimizer.momentum > 0, optimizer.options]
    return _text(
        [essence_of_parts(spec), settings, training.ema is None, training.epochs, training.evaluate_every]
    )


def _text(value: Any) -> str:
    return json.dumps(_without_seeds(value), sort_keys=True, default=str)


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(kept) for key, kept in value.items() if not key.endswith("seed")}
    return [_without_seeds(one) for one in value] if isinstance(value, (list, tuple)) else value


def spans(values: Iterable[float], text: Callable[[float], str]) -> str:
    """``a to b``, or one of them where they read the same."""
    low, high = map(text, values)
    return low if low == high else f"{low} to {high}"

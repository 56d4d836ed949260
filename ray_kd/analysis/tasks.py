"""Split the records of a sweep by task, with names of strategies that are the same in every task."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pandas as pd

from ray_kd.analysis.records import Plan, Records
from ray_kd.config.cells import SEARCHED, TASK, strategy_name
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import MONITOR


def by_task(records: Records) -> dict[str, Records]:
    """The records of one sweep, task by task in the plan's order; each has a plan of its own.

    With several tasks, cells are named by their strategies: the cell ``detection, utility``, whose first
    half is the label of axis ``task``, is ``utility`` here. The metric ``monitor`` becomes the task's own.
    Runs whose task is unknown (a teacher that has not begun) are left out.
    """
    plan, trials = records.plan, records.trials
    if plan is None:
        raise UserError("a comparison needs the plan of one sweep: read_records(storage, sweep=NAME).")
    planned = trials[trials["phase"] != "teacher"]
    tasks = [str(task) for task in planned["task"].dropna().unique()]
    if len(tasks) < 2:
        label = _label(planned)
        full = [cell for cell in plan.cells if strategy_name(cell, label) == plan.baseline]
        own = dataclasses.replace(plan, baseline=full[0] if full else plan.baseline)
        return {(tasks or [""])[0]: dataclasses.replace(records, plan=_own(own, trials))}
    cells = {
        str(cell): str(task) for cell, task in planned[["cell", "task"]].dropna().itertuples(index=False)
    }
    labels = {task: _label(planned[planned["task"] == task]) for task in tasks}

    def strategy(cell: str) -> str:
        task = cells.get(cell) or cells.get(cell.removesuffix(SEARCHED))
        return cell if task is None else strategy_name(cell, labels[task])

    parts = {}
    for task in tasks:
        mine = trials[trials["task"] == task]
        names = [
            cell for cell in plan.cells if cells.get(cell.removesuffix(SEARCHED), cells.get(cell)) == task
        ]
        own = dataclasses.replace(
            plan,
            cells=tuple(strategy(cell) for cell in names),
            baseline=None if plan.baseline is None else strategy(plan.baseline),
            notes=(),
            design=plan.design.renamed(strategy, task),
            repeats=tuple(strategy(cell) for cell in plan.repeats if cell in names),
            chance=tuple(
                {**entry, "cells": [strategy(cell) for cell in here]}
                for entry in plan.chance
                if (here := [cell for cell in entry["cells"] if cell in names])
            ),
        )
        parts[task] = Records(
            trials=_renamed(mine, strategy),
            epochs=_renamed(records.epochs, strategy, mine["identity"]),
            paths=_renamed(records.paths, strategy, mine["identity"]),
            plan=_own(own, mine),
        )
    return parts


def _label(trials: pd.DataFrame) -> dict[str, object]:
    """The value of the axis ``task`` that these trials come from; empty where there is no such axis."""
    for text in trials["axes"].dropna():
        axes = json.loads(text)
        if TASK in axes:
            return {TASK: axes[TASK]}
    return {}


def _renamed(
    frame: pd.DataFrame, name: Callable[[str], str], identities: pd.Series | None = None
) -> pd.DataFrame:
    """The rows of these runs, their cells under other names."""
    rows = frame if identities is None else frame[frame["identity"].isin(set(identities))]
    return rows.assign(cell=rows["cell"].map(lambda cell: name(str(cell))))


def _own(plan: Plan, trials: pd.DataFrame) -> Plan:
    """The plan; where its metric is ``monitor``, with the metric that its runs monitored."""
    if plan.metric != MONITOR:
        return plan
    done = trials[["monitor", "mode"]].dropna()
    if done.empty:
        return plan
    return dataclasses.replace(plan, metric=str(done.iloc[0]["monitor"]), mode=str(done.iloc[0]["mode"]))

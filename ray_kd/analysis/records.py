"""Read the records of trials, live or finished, into three DataFrames."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ray_kd.analysis.reader import Folder, each
from ray_kd.analysis.schema import TABLES, joined
from ray_kd.analysis.trial_rows import read_part
from ray_kd.config.errors import UserError, unknown
from ray_kd.storage import DamagedFile, Store, shapes
from ray_kd.trials.design import Design, implied
from ray_kd.trials.ledger import Ledger

Row = dict[str, Any]

AT_ONCE = 500
"""Trials whose files are held in memory together."""


@dataclass(frozen=True)
class Plan:
    """What a sweep compares: plan.json without its list of trials."""

    name: str
    baseline: str | None
    metric: str
    mode: str
    """max or min."""
    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()
    design: Design = field(default_factory=Design)
    """The looks that were declared; a sweep that declared none has one look at all of its seeds."""
    chance: tuple[Row, ...] = ()
    """What the seeds redraw (``config.chance.Chance``), an entry for all cells that redraw the same."""
    repeats: tuple[str, ...] = ()
    """Controls that train a cell again with a disturbance in the last bits."""

    def overlap(self, cell: str | None) -> float:
        """Samples that test for each that trains, where each seed of a cell has a split of its own, or 0."""
        found = (float(entry["overlap"]) for entry in self.chance if str(cell) in entry["cells"])
        return max(found, default=0.0)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """From plan.json; with a ``design``, as ``tables`` keeps it, that one.

        'val/top1' and 'top1' name the same metric.
        """
        declared = data.get("design")
        return cls(
            name=str(data["name"]),
            baseline=data.get("baseline"),
            metric=str(data.get("metric") or "top1").split("/")[-1],
            mode=str(data["mode"]),
            cells=tuple(data.get("cells") or dict.fromkeys(trial["cell"] for trial in data["trials"])),
            notes=tuple(data.get("notes") or ()),
            design=Design.from_json(declared) if declared else implied(data),
            chance=tuple(data.get("chance") or ()),
            repeats=tuple(data.get("repeats") or ()),
        )


@dataclass(frozen=True)
class Records:
    """Three tables (their columns: ``ray_kd.analysis.schema``), and the plan if they are of one sweep."""

    trials: pd.DataFrame
    """A row for each planned trial and for each teacher of the sweep (phase ``teacher``); where all of a
    storage is read, also for each run that no sweep planned."""
    epochs: pd.DataFrame
    """A row for each trial and epoch."""
    paths: pd.DataFrame
    """A row for each trial, epoch and path."""
    plan: Plan | None = None

    @property
    def whole_paths(self) -> pd.DataFrame:
        """The paths of the runs whose record is complete; curves over epochs show these alone."""
        torn = self.trials[self.trials["incomplete"].notna()]["identity"]
        return self.paths[~self.paths["identity"].isin(set(torn))]


def read_records(
    storage: str | Path | Store | Folder, sweep: str | None = None, whole: bool = True
) -> Records:
    """Read a storage directory or URI; runs that still train are read up to their last whole line.

    Args:
        storage: what ``storage:`` in a spec says (it holds ``runs/`` and ``sweeps/``).
        sweep: the name of one sweep; None: the trials of every sweep, then all runs in none (single
            runs). A run that two sweeps share then has a row in each.
        whole: read every file; else of a run that has ended its summary alone: how every trial stands, with
            its figures. What specs, environments, epochs and paths say is then null.

    Raises:
        UserError: no such storage, no such sweep, or a plan or design that cannot be read.

    Example:
        >>> from ray_kd import RunSpec, distill
        >>> run = {"dataset": "digits", "student": {"name": "digits_cnn", "width": 2}}
        >>> summary = distill(RunSpec.parse({**run, "training": {"epochs": 2}}))
        >>> read_records("results").epochs["epoch"].tolist()
        [1, 2]
    """
    root = Folder.open(storage)
    if not root.exists():
        raise UserError(f"storage: there is nothing at '{root.path}'.")
    names = sweep_names(root)
    if sweep is not None and sweep not in names:
        raise unknown("sweep", sweep, names, where=root.path)
    wanted = [sweep] if sweep is not None else names
    plans = {name: _plan(root, name) for name in wanted}
    planned = [{**trial, "sweep": name} for name, plan in plans.items() for trial in plan["trials"]]
    planned += [
        {"identity": identity, "sweep": name, "cell": "teacher", "phase": "teacher"}
        for name, plan in plans.items()
        for identity in plan.get("teachers") or ()
    ]
    if sweep is None:
        inside = {trial["identity"] for trial in planned}
        planned += [{"identity": identity} for identity in root.names("runs") if identity not in inside]
    whole = whole or any("task" not in trial for plan in plans.values() for trial in plan["trials"])
    ledgers = {name: _ledger(root, name) for name in wanted}
    starts = range(0, len(planned), AT_ONCE) or range(1)
    parts = [read_part(root, planned[start : start + AT_ONCE], ledgers, whole) for start in starts]
    return Records(
        **{name: joined(name, [part[name] for part in parts]) for name in TABLES},
        plan=_with_design(root, sweep, plans[sweep]) if sweep is not None else None,
    )


def sweep_names(root: Folder) -> list[str]:
    """The sweeps that have a plan in this storage."""
    return [name for name in root.names("sweeps") if root.exists(f"sweeps/{name}/plan.json")]


def only_sweep(storage: str | Path | Folder) -> str:
    """The name of the one sweep of a storage."""
    root = Folder.open(storage)
    names = sweep_names(root)
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(
            f"storage: no sweep at '{root.path}' (expected {root.where('sweeps')}/NAME/plan.json)."
        )
    raise UserError(f"storage: '{root.path}' holds several sweeps, name one of them: {', '.join(names)}.")


def _plan(root: Folder, name: str) -> dict[str, Any]:
    try:
        data = root.store.read_json(f"{root.prefix}sweeps/{name}/plan.json", shapes.Plan)
    except DamagedFile as error:
        where = root.where(f"sweeps/{name}/plan.json")
        raise UserError(
            f"{where}: not a sweep's plan ({error.problem}); `ray-kd sweep` writes it anew."
        ) from None
    return {**data, "name": data.get("name") or name}


def _with_design(root: Folder, name: str, data: dict[str, Any]) -> Plan:
    store = root.store.child(root.prefix) if root.prefix else root.store
    declared = Ledger(store, name).read_design()
    plan = Plan.from_json(data)
    return replace(plan, design=declared) if declared.families else plan


def _ledger(root: Folder, name: str) -> dict[str, Row]:
    files = [f"sweeps/{name}/ledger/{base}" for base in root.names(f"sweeps/{name}/ledger")]
    files = [file for file in files if file.endswith(".json")]
    entries = each(lambda file: root.json(file, shapes.Entry), files, root.threads)
    return {entry["identity"]: entry for entry in entries if entry is not None}


def incomplete_note(trials: pd.DataFrame) -> list[str]:
    """A note on runs that ended with an incomplete record; empty where there is none."""
    torn = trials[trials["incomplete"].notna() & trials["phase"].isin(["compare", "control"])]
    if torn.empty:
        return []
    first, one = torn.iloc[0], len(torn) == 1
    who = f"“{first['cell']}”, seed {first['seed']} ({first['incomplete']})"
    return [
        f"Incomplete records: {who}{'' if one else f' and {len(torn) - 1} more'}. "
        f"{'Its result counts' if one else 'Their results count'}; curves over epochs leave "
        f"{'it' if one else 'them'} out."
    ]


def by_seed(trials: pd.DataFrame, column: str) -> dict[int, float]:
    """The finite values of a column by seed; trials that share a seed count once, by their mean."""
    return by_cell(trials.assign(cell=""), column).get("", {})


def by_cell(trials: pd.DataFrame, column: str) -> dict[str, dict[int, float]]:
    """``by_seed`` of the trials of each cell; cells without a value are left out."""
    found: dict[str, dict[int, float]] = {}
    if column not in trials:
        return found
    values = trials[["cell", "seed", column]].dropna()
    values = values[np.isfinite(values[column].astype(float))]
    means = values.groupby(["cell", "seed"])[column].mean()
    for (cell, seed), value in zip(means.index.tolist(), means.tolist(), strict=True):
        found.setdefault(str(cell), {})[int(seed)] = float(value)
    return found

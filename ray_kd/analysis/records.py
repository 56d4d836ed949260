"""Read the records of trials, live or finished, into three DataFrames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ray_kd.analysis.reader import Folder, each
from ray_kd.analysis.run_files import RunFiles, describe, incomplete, number_in, read_runs, section
from ray_kd.analysis.schema import TABLES, to_frame
from ray_kd.config.ending import Ending, noted
from ray_kd.config.errors import UserError, unknown
from ray_kd.storage import DamagedFile, Store, shapes
from ray_kd.trials.design import Design, implied
from ray_kd.trials.ledger import Ledger

Row = dict[str, Any]

ENVIRONMENT = (
    "device",
    "device_name",
    "precision",
    "threads",
    "host",
    "python",
    "torch",
    "ray",
    "ray_kd",
    "commit",
)
"""Keys of environment.json that become columns."""


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


def read_records(storage: str | Path | Store | Folder, sweep: str | None = None) -> Records:
    """Read a storage directory or URI; runs that still train are read up to their last whole line.

    Args:
        storage: what ``storage:`` in a spec says (it holds ``runs/`` and ``sweeps/``).
        sweep: the name of one sweep; None: the trials of every sweep, then all runs in none (single
            runs). A run that two sweeps share then has a row in each.

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
    runs = read_runs(root, [trial["identity"] for trial in planned])
    ledger = {name: _ledger(root, name) for name in wanted}
    rows = [
        _Rows(trial, runs[trial["identity"]], ledger.get(str(trial.get("sweep")), {})) for trial in planned
    ]
    return Records(
        trials=to_frame("trials", [row.trial() for row in rows]),
        epochs=to_frame("epochs", [entry for row in rows for entry in row.epochs()]),
        paths=to_frame("paths", [entry for row in rows for entry in row.paths()]),
        plan=_with_design(root, sweep, plans[sweep]) if sweep is not None else None,
    )


def sweep_names(root: Folder) -> list[str]:
    """The sweeps that have a plan in this storage."""
    return [name for name in root.names("sweeps") if root.exists(f"sweeps/{name}/plan.json")]


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


class _Rows:
    """The rows that one planned trial adds to the tables."""

    def __init__(self, planned: Row, run: RunFiles, ledger: dict[str, Row]) -> None:
        self.planned, self.run = planned, run
        self.ledger = ledger.get(planned["identity"], {})
        self.who = {key: planned.get(key) for key in ("sweep", "cell", "seed", "phase", "identity")}
        if self.who["seed"] is None:
            self.who["seed"] = run.spec.get("seed", self.ledger.get("seed"))
        if self.who["sweep"] is not None and self.who["phase"] is None:
            self.who["phase"] = "compare"

    def trial(self) -> Row:
        status, reason = self._status()
        summary = self.run.summary or {}
        last = self.run.epochs[-1] if self.run.epochs else {}
        axes = self.planned.get("axes")
        row: Row = {
            **self.who,
            **describe(self.run.spec),
            "task": section(self.run.spec, "task").get("name") or self.planned.get("task"),
            "name": summary.get("name") or self.run.spec.get("name"),
            "status": status,
            "reason": reason,
            "incomplete": incomplete(self.run),
            "teachers": " ".join(self.planned.get("teachers") or ()) or None,
            "axes": None if axes is None else json.dumps(axes, sort_keys=True),
            "epochs": summary.get("epochs", last.get("epoch")),
            "steps": summary.get("steps", last.get("step")),
            "seconds": summary.get("seconds", self._seconds_so_far()),
            **{key: summary.get(key) for key in ("started", "parameters", "monitor", "mode")},
            **{key: self.run.environment.get(key) for key in ENVIRONMENT},
        }
        for which in ("last", "best"):
            weights = summary.get(which) or {}
            row[f"{which}_epoch"] = weights.get("epoch")
            for split in ("val", "test"):
                row.update(_metrics(f"{which}_{split}", weights.get(split)))
        return row

    def _seconds_so_far(self) -> float | None:
        seconds = [number_in(entry.get("seconds")) or 0.0 for entry in self.run.epochs]
        return sum(seconds) if seconds else None

    def _status(self) -> tuple[str, str | None]:
        """Status and reason: from the run's own summary, or from the ledger where it has no summary.

        A run that has neither and that no process trains is unfinished: interrupted, or killed.
        """
        summary, ledger = self.run.summary, self.ledger
        elsewhere = self.who["sweep"] is not None and not ledger
        if summary is not None and summary.get("status") == Ending.STOPPED and elsewhere:
            return "missing", "the scheduler of another sweep stopped it; this sweep has not trained it"
        if summary is not None and summary.get("status"):
            return str(summary["status"]), summary.get("reason") or ledger.get("reason")
        if "summary.json" in self.run.damaged and noted(ledger) not in (Ending.FAILED, Ending.STOPPED):
            return (
                "missing",
                "its summary.json is damaged: it goes on from its last state, or trains again",
            )
        if self.run.at_work:
            return "running", None
        ending = noted(ledger)
        if ending is Ending.FINISHED:
            return "missing", "the ledger has it as finished, but its record is gone"
        if ending is not None:
            return ending.value, ledger.get("reason")
        return (Ending.UNFINISHED.value, None) if self.run.present else ("missing", None)

    def epochs(self) -> Iterator[Row]:
        for entry in self.run.epochs:
            plain = {key: entry.get(key) for key in ("epoch", "step", "learning_rate", "seconds")}
            train, val = (_metrics(split, entry.get(split)) for split in ("train", "val"))
            yield {**self.who, **plain, **train, **val}

    def paths(self) -> Iterator[Row]:
        keys = [name for name, _, _ in TABLES["paths"] if name not in self.who]
        for entry in self.run.paths:
            yield {**self.who, **{key: entry.get(key) for key in keys}}


def _metrics(prefix: str, values: Any) -> Row:
    """The numbers among ``values`` (a per-class list, say, has no column)."""
    items = values.items() if isinstance(values, dict) else ()
    return {f"{prefix}_{name}": number_in(value) for name, value in items if number_in(value) is not None}


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
    if column not in trials:
        return {}
    values = trials[["seed", column]].dropna()
    values = values[np.isfinite(values[column].astype(float))]
    return {int(seed): float(value) for seed, value in values.groupby("seed")[column].mean().items()}  # type: ignore[call-overload]

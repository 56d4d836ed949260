"""Read the records of trials, live or finished, into three DataFrames."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ray_kd.analysis.reader import Folder, each
from ray_kd.analysis.schema import TABLES, to_frame
from ray_kd.config.ending import Ending, noted
from ray_kd.config.errors import UserError, unknown
from ray_kd.storage import Store, is_held

Row = dict[str, Any]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there

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

IN_TEST = 600.0
"""Seconds after its last epoch in which a run without a summary counts as running."""


@dataclass(frozen=True)
class Plan:
    """What a sweep set out to do: plan.json without its list of trials."""

    name: str
    baseline: str | None
    metric: str
    mode: str | None
    """max or min; None (an older plan): as the runs' summaries say."""
    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """From plan.json; 'val/top1' and 'top1' name the same metric."""
        return cls(
            name=str(data["name"]),
            baseline=data.get("baseline"),
            metric=str(data.get("metric") or "top1").split("/")[-1],
            mode=data.get("mode"),
            cells=tuple(data.get("cells") or dict.fromkeys(trial["cell"] for trial in data["trials"])),
            notes=tuple(data.get("notes") or ()),
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


def read_records(storage: str | Path | Store | Folder, sweep: str | None = None) -> Records:
    """Read a storage directory or URI; runs that still train are read up to their last whole line.

    Args:
        storage: what ``storage:`` in a spec says (it holds ``runs/`` and ``sweeps/``).
        sweep: the name of one sweep; None: the trials of every sweep, then all runs in none (single
            runs). A run that two sweeps share then has a row in each.

    Raises:
        UserError: no such storage, no such sweep, or a plan that cannot be read.
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
    runs = _read_runs(root, planned)
    ledger = {name: _ledger(root, name) for name in wanted}
    rows = [
        _Rows(trial, runs[trial["identity"]], ledger.get(str(trial.get("sweep")), {})) for trial in planned
    ]
    return Records(
        trials=to_frame("trials", [row.trial() for row in rows]),
        epochs=to_frame("epochs", [entry for row in rows for entry in row.epochs()]),
        paths=to_frame("paths", [entry for row in rows for entry in row.paths()]),
        plan=Plan.from_json(plans[sweep]) if sweep is not None else None,
    )


def sweep_names(root: Folder) -> list[str]:
    """The sweeps that have a plan in this storage."""
    return [name for name in root.names("sweeps") if root.exists(f"sweeps/{name}/plan.json")]


def _plan(root: Folder, name: str) -> dict[str, Any]:
    data = root.json(f"sweeps/{name}/plan.json")
    trials = data.get("trials") if isinstance(data, dict) else None
    if not isinstance(trials, list) or any(
        "identity" not in trial or "cell" not in trial for trial in trials
    ):
        raise UserError(
            f"{root.where(f'sweeps/{name}/plan.json')}: not a sweep's plan; `ray-kd sweep` writes it anew."
        )
    return {**data, "name": data.get("name") or name}


def _ledger(root: Folder, name: str) -> dict[str, Row]:
    files = [f"sweeps/{name}/ledger/{base}" for base in root.names(f"sweeps/{name}/ledger")]
    files = [file for file in files if file.endswith(".json")]
    entries = [entry for entry in each(root.json, files, root.threads) if isinstance(entry, dict)]
    return {str(entry.get("identity")): entry for entry in entries}


@dataclass(frozen=True)
class _Run:
    """The files of one run directory; what is missing is empty."""

    present: bool
    spec: Row
    environment: Row
    summary: Row | None
    epochs: list[Row]
    paths: list[Row]
    at_work: bool = False
    """Whether a process trains it just now."""


def _read_runs(root: Folder, planned: list[Row]) -> dict[str, _Run]:
    identities = list(dict.fromkeys(trial["identity"] for trial in planned))
    there = set(root.names("runs"))

    def read(identity: str) -> _Run:
        if identity not in there:
            return _Run(False, {}, {}, None, [], [])
        folder = root.sub(f"runs/{identity}")
        held = is_held(root.store, f"{folder.prefix}lock")
        summary = folder.json("summary.json")  # early: a run that ends meanwhile is then read as running
        spec, epochs = parse_spec(folder.text("spec.yaml")), _latest(folder.stream("epochs"), "epoch")
        return _Run(
            present=True,
            spec=spec,
            environment=folder.json("environment.json") or {},
            summary=summary if isinstance(summary, dict) else None,
            epochs=epochs,
            paths=_latest(folder.stream("paths"), "epoch", "path"),
            at_work=held or (summary is None and _in_test(folder, spec, epochs)),
        )

    return dict(zip(identities, each(read, identities, root.threads), strict=True))


def _in_test(folder: Folder, spec: Row, epochs: list[Row]) -> bool:
    """Whether a run has just trained its last epoch: test data are read without its lock."""
    last = epochs[-1]["epoch"] if epochs else None
    if last is None or last != (spec.get("training") or {}).get("epochs"):
        return False
    file = "epochs.jsonl" if folder.store.is_local else f"epochs/{last:06d}.json"
    try:
        return time.time() - folder.store.modified(f"{folder.prefix}{file}") < IN_TEST
    except FileNotFoundError:
        return False


def parse_spec(text: str | None) -> Row:
    """A recorded spec as plain data, no plug-in loaded; empty where it is missing or torn."""
    try:
        data = yaml.load(text or "", Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _latest(entries: list[Row], *keys: str) -> list[Row]:
    """Of entries with equal keys the last one: a run resumed before its last line writes that line again."""
    kept = {
        tuple(entry[key] for key in keys): entry for entry in entries if all(key in entry for key in keys)
    }
    return sorted(kept.values(), key=lambda entry: int(entry["epoch"]))


class _Rows:
    """The rows that one planned trial adds to the tables."""

    def __init__(self, planned: Row, run: _Run, ledger: dict[str, Row]) -> None:
        self.planned, self.run = planned, run
        self.ledger = ledger.get(planned["identity"], {})
        self.who = {key: planned.get(key) for key in ("sweep", "cell", "seed", "phase", "identity")}
        if self.who["seed"] is None:
            self.who["seed"] = run.spec.get("seed")
        if self.who["sweep"] is not None and self.who["phase"] is None:
            self.who["phase"] = "compare"

    def trial(self) -> Row:
        status, reason = self._status()
        summary = self.run.summary or {}
        last = self.run.epochs[-1] if self.run.epochs else {}
        axes = self.planned.get("axes")
        row: Row = {
            **self.who,
            **_describe(self.run.spec),
            "task": (self.run.spec.get("task") or {}).get("name") or self.planned.get("task"),
            "name": summary.get("name") or self.run.spec.get("name"),
            "status": status,
            "reason": reason,
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
        seconds = [_number(entry.get("seconds")) or 0.0 for entry in self.run.epochs]
        return sum(seconds) if seconds else None

    def _status(self) -> tuple[str, str | None]:
        """The run's own summary is the truth; the ledger speaks only for a run that left none.

        One that left none and that nobody trains is unfinished: interrupted, or its process was killed.
        """
        summary, ledger = self.run.summary, self.ledger
        elsewhere = self.who["sweep"] is not None and not ledger
        if summary is not None and summary.get("status") == Ending.STOPPED and elsewhere:
            return "missing", "so far only trained until a scheduler of another sweep stopped it"
        if summary is not None and summary.get("status"):
            return str(summary["status"]), summary.get("reason") or ledger.get("reason")
        if self.run.at_work:
            return "running", None
        ending = noted(ledger)
        if ending is Ending.FINISHED:
            return "missing", "the ledger calls it finished, but its record is gone"
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


def _describe(spec: Row) -> Row:
    """The components that a resolved spec names."""
    active = [path for path in spec.get("paths") or () if path.get("weight") != 0]
    aggregation = spec.get("aggregation") or {}
    return {
        **{key: (spec.get(key) or {}).get("name") for key in ("task", "dataset", "student")},
        "paths": ", ".join(_label(path) for path in active) if spec else None,
        "aggregation": aggregation.get("name") if active else None,
        "granularity": aggregation.get("granularity") if active else None,
        "harmful": ", ".join(_label(path) for path in active if _spoilt(path, spec)) if spec else None,
        **{f"{key}_options": _options(spec.get(key)) for key in ("student", "dataset")},
        "aggregation_options": _options(aggregation) if active else None,
        "planned_epochs": (spec.get("training") or {}).get("epochs"),
    }


def _label(path: Row) -> str:
    return str(path.get("label") or path.get("name"))


def _spoilt(path: Row, spec: Row) -> bool:
    """Whether a path teaches what is not true: its target is corrupted, or its teacher is."""
    teachers = spec.get("teachers") or {}
    teacher = teachers.get(path.get("teacher") or next(iter(teachers), None)) or {}
    labels = (teacher.get("training") or {}).get("labels", "given")
    return path.get("corrupt") is not None or teacher.get("weights") == "initial" or labels != "given"


def _options(component: Row | None) -> str | None:
    if not component:
        return None
    return json.dumps({key: value for key, value in component.items() if key != "name"}, sort_keys=True)


def _metrics(prefix: str, values: Any) -> Row:
    """The numbers among ``values`` (a per-class list, say, has no column)."""
    items = values.items() if isinstance(values, dict) else ()
    return {f"{prefix}_{name}": _number(value) for name, value in items if _number(value) is not None}


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain else None


def by_seed(trials: pd.DataFrame, column: str) -> dict[int, float]:
    """The finite values of a column by seed; trials that share a seed count once, by their mean."""
    if column not in trials:
        return {}
    values = trials[["seed", column]].dropna()
    values = values[np.isfinite(values[column].astype(float))]
    return {int(seed): float(value) for seed, value in values.groupby("seed")[column].mean().items()}  # type: ignore[call-overload]

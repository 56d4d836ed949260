"""What each planned trial adds to the tables of records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ray_kd.analysis.reader import Folder
from ray_kd.analysis.run_files import Row, RunFiles, describe, incomplete, number_in, read_runs, section
from ray_kd.analysis.schema import TABLES, columns_to_arrow, to_arrow
from ray_kd.config.ending import Ending, noted

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


def read_part(
    root: Folder, planned: list[Row], ledgers: Mapping[str, Mapping[str, Row]], whole: bool = True
) -> dict[str, pa.Table]:
    """The three tables of some planned trials, read from the files of their runs.

    Args:
        planned: entries of plan.json with the name of their ``sweep``; of a run in none ``identity`` alone.
        ledgers: entries of each sweep's ledger by identity.
        whole: as of ``read_records``.
    """
    runs = read_runs(root, [trial["identity"] for trial in planned], whole)
    rows = [
        _Rows(trial, runs[trial["identity"]], ledgers.get(str(trial.get("sweep")), {})) for trial in planned
    ]
    return {
        "trials": to_arrow("trials", [row.trial(whole) for row in rows]),
        "epochs": columns_to_arrow("epochs", _epochs(rows)),
        "paths": columns_to_arrow("paths", _paths(rows)),
    }


class _Rows:
    """The rows that one planned trial adds to the tables."""

    def __init__(self, planned: Row, run: RunFiles, ledger: Mapping[str, Row]) -> None:
        self.planned, self.run = planned, run
        self.ledger = ledger.get(planned["identity"], {})
        self.who = {key: planned.get(key) for key in ("sweep", "cell", "seed", "phase", "identity")}
        if self.who["seed"] is None:
            self.who["seed"] = run.spec.get("seed", self.ledger.get("seed"))
        if self.who["sweep"] is not None and self.who["phase"] is None:
            self.who["phase"] = "compare"

    def trial(self, whole: bool) -> Row:
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
            "incomplete": incomplete(self.run) if whole else None,
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


def _epochs(rows: list[_Rows]) -> dict[str, list[Any]]:
    """The columns of the epochs of some trials."""
    columns = _who(rows, [len(row.run.epochs) for row in rows])
    entries = [entry for row in rows for entry in row.run.epochs]
    for key in ("epoch", "step", "learning_rate", "seconds"):
        columns[key] = [entry.get(key) for entry in entries]
    for split in ("train", "val"):
        listed = [entry.get(split) for entry in entries]
        values = [one if isinstance(one, dict) else {} for one in listed]
        for name in dict.fromkeys(name for one in values for name in one):
            numbers = [number_in(one.get(name)) for one in values]
            if any(number is not None for number in numbers):  # a per-class list, say, has no column
                columns[f"{split}_{name}"] = numbers
    return columns


def _paths(rows: list[_Rows]) -> dict[str, list[Any]]:
    """The columns of the paths of some trials."""
    columns = _who(rows, [len(row.run.paths) for row in rows])
    entries = [entry for row in rows for entry in row.run.paths]
    for key in (name for name, _, _ in TABLES["paths"] if name not in columns):
        columns[key] = [entry.get(key) for entry in entries]
    return columns


def _who(rows: list[_Rows], times: list[int]) -> dict[str, list[Any]]:
    """What every row of a trial has in common, each so many times."""
    return {
        key: [value for row, n in zip(rows, times, strict=True) for value in (row.who[key],) * n]
        for key in ("sweep", "cell", "seed", "phase", "identity")
    }


def _metrics(prefix: str, values: Any) -> Row:
    """The numbers among ``values`` (a per-class list, say, has no column)."""
    items = values.items() if isinstance(values, dict) else ()
    return {f"{prefix}_{name}": number_in(value) for name, value in items if number_in(value) is not None}

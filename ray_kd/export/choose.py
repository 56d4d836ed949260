"""Which run is meant: by its identity or the beginning of it, or by its sweep, cell, and figure."""

from __future__ import annotations

import pandas as pd

from ray_kd.analysis.best_student import best_students, students
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records, sweep_names
from ray_kd.config.errors import UserError, nearest
from ray_kd.config.names import one_line
from ray_kd.storage import Store

SHOWN = 20
"""Runs that a message lists."""


def choose_run(store: Store, which: str, best: bool = False) -> str:
    """The identity of the run that ``RUN``, ``SWEEP`` or ``SWEEP:CELL`` means.

    Args:
        which: an identity or the beginning of one, or the name of a sweep, with or without a cell.
        best: of several students of a sweep, the one that was best on validation.

    Raises:
        UserError: nothing or several things are called so; names them.
    """
    root = Folder(store)
    if not root.exists():
        raise UserError(f"storage: there is nothing at '{root.path}'.")
    sweeps, runs = sweep_names(root), root.names("runs")
    named = max((name for name in sweeps if f"{which}:".startswith(f"{name}:")), key=len, default=None)
    begun = [run for run in runs if which and run.startswith(which)]
    if which in runs:
        begun = [which]
    if named is not None and begun:
        raise UserError(
            f"export: '{which}' is a sweep and the beginning of {_listed(begun)}; write the run's identity "
            f"in full, or the sweep with a cell ({which}:CELL)."
        )
    if named is not None:
        return _of_sweep(root, named, which[len(named) + 1 :] or None, best)
    if best:
        raise UserError(
            f"export --best: expected the name of a sweep, one of {_listed(sweeps)}; got '{which}'."
        )
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UserError(f"export: '{which}' is the beginning of {len(begun)} runs: {_listed(begun)}.")
    guess = nearest(which, [*sweeps, *runs])
    hint = f" Did you mean '{guess}'?" if guess else ""
    raise UserError(
        f"export: no run and no sweep at '{root.path}' is called '{which}'.{hint} Sweeps: {_listed(sweeps)}; "
        f"{len(runs)} runs, listed by 'ray-kd status --runs'."
    )


def _of_sweep(root: Folder, sweep: str, cell: str | None, best: bool) -> str:
    trials = read_records(root, sweep, whole=False).trials
    there = students(trials)
    if cell is not None:
        cells = list(dict.fromkeys(trials["cell"].dropna()))
        if cell not in cells:
            guess = nearest(cell, cells)
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UserError(f"export: sweep '{sweep}' has no cell '{cell}'.{hint} Cells: {', '.join(cells)}.")
        there = there[there["cell"] == cell]
    of = f"sweep '{sweep}'" if cell is None else f"cell '{cell}' of sweep '{sweep}'"
    if there.empty:
        raise UserError(
            f"export: {of} has no finished student yet; 'ray-kd status' says where its trials stand."
        )
    if len(there) == 1:
        return str(there.iloc[0]["identity"])
    if not best:
        raise UserError(
            f"export: {of} has {len(there)} finished students. Which? --best takes the one that was best on "
            f"validation; or name one:\n{_rows(there)}"
        )
    found = best_students(there)
    if len(found) == 1:
        return found[0].identity
    if not found:
        raise UserError(f"export --best: no student of {of} has a figure on validation.")
    tasks = "\n".join(f"  {one.identity}  {one.task}: {one_line(one.cell)}, seed {one.seed}" for one in found)
    raise UserError(f"export --best: {of} has several tasks, each with a best student; name one:\n{tasks}")


def _rows(trials: pd.DataFrame) -> str:
    lines = [
        f"  {row.identity}  {one_line(str(row.cell))}, seed {row.seed}"
        for row in trials.head(SHOWN).itertuples()
    ]
    more = [f"  ... and {len(trials) - SHOWN} more"] if len(trials) > SHOWN else []
    return "\n".join([*lines, *more])


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return (f"{shown}, ..." if len(names) > SHOWN else shown) or "none"

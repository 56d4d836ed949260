"""ray-kd status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ray_kd.cli.common import shown
from ray_kd.cli.export import best_lines
from ray_kd.config.screen import say, show

if TYPE_CHECKING:
    import pandas as pd

    from ray_kd.analysis.run_list import ListedRun
    from ray_kd.trials.verdicts import Verdicts


def status(
    storage: Annotated[str, typer.Argument(help="The storage folder.")] = "results",
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="Which sweep; default: the only one.", show_default=False)
    ] = None,
    runs: Annotated[
        bool, typer.Option("--runs", help="Every run of the storage, one a line, sweep or not.")
    ] = False,
) -> None:
    """Show the state of a sweep's trials.

    Prints a row for each cell, while the sweep runs or after it, with looks
    also what they have decided; below, each failed trial with its reason and
    the path of its traceback, and the reasons of trials that are blocked (their
    teacher failed) or unfinished; the nodes that joined and were left out, since
    they lack something; then the best student by validation, and the
    command that exports it. Where there is no sweep, or with --runs, it lists
    the runs.

    Examples:
      ray-kd status
      ray-kd status results --sweep digits
      ray-kd status results --runs
    """
    from ray_kd.analysis.reader import Folder
    from ray_kd.analysis.records import only_sweep, read_records, sweep_names
    from ray_kd.analysis.run_list import list_runs
    from ray_kd.analysis.verdicts import sweep_verdicts
    from ray_kd.config.ending import Ending
    from ray_kd.storage import Store
    from ray_kd.storage.shapes import LeftOut
    from ray_kd.trials.ledger import LEFT_OUT, node_line

    listed = runs or (sweep is None and not sweep_names(Folder.open(storage)))
    if listed and (there := list_runs(storage)):
        return _show_runs(there)
    sweep = sweep or only_sweep(storage)
    records = read_records(storage, sweep, whole=False)
    trials = records.trials
    _show_cells(trials, sweep_verdicts(records))
    for row in trials[trials["status"] == Ending.FAILED.value].itertuples():
        which = f" ({row.name!s})" if row.phase == "teacher" and row.name else ""
        say(f"failed: {row.cell}{which}, seed {row.seed}: {row.reason}")
        say(f"  traceback: {shown(Store(storage).path(f'runs/{row.identity}/error.txt'))}")
    for ending in (Ending.BLOCKED, Ending.UNFINISHED):
        rest = trials[(trials["status"] == ending.value) & trials["reason"].notna()]
        for row in rest.itertuples():
            say(f"{ending}: {row.cell}, seed {row.seed}: {row.reason}")
    for node in Folder.open(storage).json(f"sweeps/{sweep}/{LEFT_OUT}", list[LeftOut]) or ():
        say(f"left out: {node_line(node)}")
    for line in best_lines(trials, sweep, storage):
        say(line)
    if (trials["status"] == Ending.UNFINISHED.value).any():
        say("The command that started the sweep trains the unfinished trials.")


def _show_cells(trials: pd.DataFrame, verdicts: Verdicts) -> None:
    """A row for each cell: how many of its trials are in which state, and what looks say of it."""
    from rich.table import Table
    from rich.text import Text

    from ray_kd.config.ending import STATES

    always = ("finished", "running", "failed", "missing")
    states = [state for state in STATES if state in always or (trials["status"] == state).any()]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cell")
    for state in states:
        table.add_column(state, justify="right")
    lines = verdicts.lines()
    if lines:
        table.add_column("look", no_wrap=True)
    searched = trials["phase"] == "search"
    trials["row"] = trials["cell"].where(~searched, trials["cell"] + " (candidates)")
    for cell, group in trials.groupby("row", sort=False):
        counts = group["status"].value_counts()
        texts = [str(counts.get(state, 0) or "") for state in states]
        table.add_row(Text(str(cell)), *texts, *([verdicts.in_words(str(cell))] if lines else ()))
    show(table)
    for line in lines:
        say(line)


def _show_runs(runs: list[ListedRun]) -> None:
    """A row for each run: what it was made of, and how it ended."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True, min_width=16)
    for title in ("name", "student", "dataset", "state", "epoch", "test"):
        table.add_column(title, overflow="fold")
    for run in runs:
        cells = (run.identity, run.name, run.student, run.dataset, run.state, str(run.epoch), run.figure)
        table.add_row(*map(Text, cells))
    show(table)

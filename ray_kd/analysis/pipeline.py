"""All of the analysis of one sweep, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from ray_kd.analysis.answer import answer
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.comparison_table import as_csv, markdown, terminal
from ray_kd.analysis.plots import draw, write_pictures
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, read_records, sweep_names
from ray_kd.analysis.report import report_html
from ray_kd.analysis.tables import write_tables
from ray_kd.config.errors import UserError


@dataclass(frozen=True)
class Analysis:
    """What ``analyze`` found and wrote."""

    sweep: str
    records: Records
    comparison: Comparison
    answer: str
    """The result in plain words."""
    table: Group
    """The answer, the table and its notes, to print with rich."""
    files: dict[str, str]
    """Name relative to the output folder -> full path: tables, plots, ``report.html``."""


def analyze(storage: str | Path, sweep: str | None = None, out: str | Path | None = None) -> Analysis:
    """Read a sweep's records, live or finished; write Parquet, table, plots and report.

    Args:
        storage: directory or URI that holds ``runs/`` and ``sweeps/``.
        sweep: name of the sweep; may be left out where the storage holds one only.
        out: where to write; default ``<storage>/sweeps/<sweep>``.

    Raises:
        UserError: no such storage or sweep, several sweeps and none named, or ``out`` cannot be written.
    """
    root = Folder.open(storage)
    sweep = only_sweep(root) if sweep is None else sweep
    records = read_records(root, sweep)
    comparison = compare_cells(records)
    folder = Folder.open(out) if out is not None else root.sub(f"sweeps/{sweep}")
    files = {
        f"tables/{name}.parquet": path for name, path in write_tables(records, folder.sub("tables")).items()
    }
    files.update(write_comparison(comparison, folder))
    pictures = draw(records, comparison)
    files.update(
        {f"plots/{name}": path for name, path in write_pictures(pictures, folder.sub("plots")).items()}
    )
    page = report_html(records, comparison, pictures, root, str(storage))
    files["report.html"] = folder.write("report.html", page)
    return Analysis(sweep, records, comparison, answer(comparison), terminal(comparison), files)


def write_comparison(comparison: Comparison, out: str | Path | Folder) -> dict[str, str]:
    """Write ``table.md`` and ``table.csv``; returns the path of each.

    Raises:
        UserError: ``out`` cannot be written.
    """
    folder = Folder.open(out)
    return {
        "table.md": folder.write("table.md", markdown(comparison)),
        "table.csv": folder.write("table.csv", as_csv(comparison)),
    }


def only_sweep(storage: str | Path | Folder) -> str:
    """The name of the one sweep of a storage.

    Raises:
        UserError: there is none, or there are several.
    """
    root = Folder.open(storage)
    names = sweep_names(root)
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError(
            f"storage: no sweep at '{root.path}' (expected {root.where('sweeps')}/NAME/plan.json)."
        )
    raise UserError(f"storage: '{root.path}' holds several sweeps, name one of them: {', '.join(names)}.")

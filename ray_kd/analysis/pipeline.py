"""All of the analysis of one sweep, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from ray_kd.analysis.across import Across
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.plot_style import Picture, left_out
from ray_kd.analysis.plots import write_pictures
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, read_records, sweep_names
from ray_kd.analysis.report import report_html, tasks_report_html
from ray_kd.analysis.sweep_results import SweepResults, draw_findings, findings, shown_table, write_findings
from ray_kd.analysis.tables import write_tables
from ray_kd.config.errors import UserError


@dataclass(frozen=True)
class Analysis:
    """What ``analyze`` found and wrote."""

    sweep: str
    records: Records
    findings: SweepResults
    """The statistics, task by task."""
    answer: str
    """The result in plain words."""
    table: Group
    """The answer, the tables and their notes, to print with rich."""
    files: dict[str, str]
    """Name relative to the output folder -> full path: tables, plots, ``report.html``. Where there are
    several tasks, each has a folder of its own for what is its own."""
    left_out: tuple[str, ...] = ()
    """A sentence for each figure that could not be drawn; all else is written."""

    @property
    def comparison(self) -> Comparison:
        """The comparison of the first task; most sweeps have one."""
        return next(iter(self.findings.comparisons.values()))

    @property
    def across(self) -> Across | None:
        """What several tasks say together; None where there is one."""
        return self.findings.across


def analyze(storage: str | Path, sweep: str | None = None, out: str | Path | None = None) -> Analysis:
    """Read a sweep's records, live or finished; write Parquet, table, plots and report.

    A sweep over several tasks gets a table and figures for each, and a table and a figure across them.

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
    found = findings(records)
    folder = Folder.open(out) if out is not None else root.sub(f"sweeps/{sweep}")
    files = {
        f"tables/{name}.parquet": path for name, path in write_tables(records, folder.sub("tables")).items()
    }
    files.update(write_findings(found, folder))
    pictures = draw_findings(found)
    files.update(write_figures(found, pictures, folder, "plots/"))
    page = _report(records, found, pictures, root, str(storage))
    files["report.html"] = folder.write("report.html", page)
    troubles = tuple(left_out(picture for drawn in pictures.values() for picture in drawn))
    return Analysis(sweep, records, found, found.answer, shown_table(found), files, troubles)


def write_figures(
    found: SweepResults, pictures: dict[str, list[Picture]], out: str | Path | Folder, below: str = ""
) -> dict[str, str]:
    """Write the figures of each task and those across tasks into ``below``; returns the path of each file.

    Raises:
        UserError: ``out`` cannot be written.
    """
    folder, files = Folder.open(out), {}
    for task, drawn in pictures.items():
        place = f"{found.folders.get(task, '')}{below}"
        written = write_pictures(drawn, folder.sub(place.rstrip("/")) if place else folder)
        files.update({f"{place}{name}": path for name, path in written.items()})
    return files


def _report(
    records: Records, found: SweepResults, pictures: dict[str, list[Picture]], root: Folder, storage: str
) -> str:
    if found.across is None:
        ((task, comparison),) = found.comparisons.items()
        return report_html(records, comparison, pictures[task], root, storage)
    parts = {task: (part, pictures[task]) for task, part in found.parts.items()}
    return tasks_report_html(records, found.across, parts, pictures[""], root, storage)


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

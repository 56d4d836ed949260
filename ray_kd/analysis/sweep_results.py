"""The statistics of a sweep: a comparison for each task, and one across tasks where there are several."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from ray_kd.analysis.across import Across, across_tasks
from ray_kd.analysis.across_table import across_csv, across_headline, across_markdown, across_terminal
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.comparison_table import as_csv, markdown, records_of, terminal
from ray_kd.analysis.headline import headline
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.tables import write_comparison_table
from ray_kd.analysis.tasks import by_task


@dataclass(frozen=True)
class SweepResults:
    """The statistics of one sweep, task by task."""

    parts: dict[str, Records]
    """The records of each task; all of them where there is one task."""
    comparisons: dict[str, Comparison]
    across: Across | None
    """The comparison across tasks; None where there is one task."""

    @property
    def headline(self) -> str:
        """One paragraph: the verdict on each strategy."""
        if self.across is not None:
            return across_headline(self.across)
        return headline(next(iter(self.comparisons.values())))

    @property
    def folders(self) -> dict[str, str]:
        """The folder of each task's own files, below the output folder; '' where there is one task."""
        return {task: f"{task}/" if self.across is not None else "" for task in self.comparisons}


def sweep_results(records: Records) -> SweepResults:
    """The statistics of the records of one sweep."""
    parts = by_task(records)
    comparisons = {task: compare_cells(part) for task, part in parts.items()}
    plan = records.plan
    across = across_tasks(plan.name, comparisons, plan.notes) if plan and len(parts) > 1 else None
    return SweepResults(parts, comparisons, across)


def terminal_tables(results: SweepResults) -> Group:
    """The tables with their headlines and notes, for a terminal; the table across tasks comes last."""
    if results.across is None:
        return terminal(next(iter(results.comparisons.values())))
    parts: list[RenderableType] = []
    for task, comparison in results.comparisons.items():
        parts += [Text(task.upper(), style="bold"), terminal(comparison), Text()]
    return Group(*parts, Text("ACROSS TASKS", style="bold"), across_terminal(results.across))


def write_comparison(results: SweepResults, folder: Folder) -> dict[str, str]:
    """Write ``table.md``, ``table.csv`` and ``tables/comparison.parquet``; returns the path of each.

    With several tasks, the tables compare across tasks, and each task has its own pair in a folder of its
    name; the Parquet file has all tasks.
    """
    texts = {}
    for task, comparison in results.comparisons.items():
        texts[f"{results.folders[task]}table.md"] = markdown(comparison)
        texts[f"{results.folders[task]}table.csv"] = as_csv(comparison)
    if results.across is not None:
        texts["table.md"] = across_markdown(results.across)
        texts["table.csv"] = across_csv(results.across)
    rows = [{"task": task, **row} for task, found in results.comparisons.items() for row in records_of(found)]
    return {
        **{name: folder.write(name, text) for name, text in texts.items()},
        "tables/comparison.parquet": write_comparison_table(rows, folder.sub("tables")),
    }

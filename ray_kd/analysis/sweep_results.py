"""What the records of a sweep say: a comparison for each task, and across tasks where there are several."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from ray_kd.analysis.across import Across, across_tasks
from ray_kd.analysis.across_table import across_answer, across_csv, across_markdown, across_terminal
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.comparison_table import as_csv, markdown, terminal
from ray_kd.analysis.headline import answer
from ray_kd.analysis.plot_across import across_picture
from ray_kd.analysis.plot_style import Picture, attempt, style
from ray_kd.analysis.plots import draw
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.tasks import by_task


@dataclass(frozen=True)
class SweepResults:
    """The statistics of one sweep, task by task."""

    parts: dict[str, Records]
    """The records of each task; all of them where there is one task."""
    comparisons: dict[str, Comparison]
    across: Across | None
    """What several tasks say together; None where there is one."""

    @property
    def answer(self) -> str:
        """The result in plain words."""
        if self.across is not None:
            return across_answer(self.across)
        return answer(next(iter(self.comparisons.values())))

    @property
    def folders(self) -> dict[str, str]:
        """Task -> the folder, relative to the output's, that its own files go to: none where it is alone."""
        return {task: f"{task}/" if self.across is not None else "" for task in self.comparisons}


def findings(records: Records) -> SweepResults:
    """The statistics of the records of one sweep.

    Raises:
        UserError: as ``by_task`` and ``compare_cells``.
    """
    parts = by_task(records)
    comparisons = {task: compare_cells(part) for task, part in parts.items()}
    plan = records.plan
    across = across_tasks(plan.name, comparisons, plan.notes) if plan and len(parts) > 1 else None
    return SweepResults(parts, comparisons, across)


def shown_table(found: SweepResults) -> Group:
    """The tables with their answers and notes, for a terminal; what a reader wants first comes last."""
    if found.across is None:
        return terminal(next(iter(found.comparisons.values())))
    parts: list[RenderableType] = []
    for task, comparison in found.comparisons.items():
        parts += [Text(task.upper(), style="bold"), terminal(comparison), Text()]
    return Group(*parts, Text("ACROSS TASKS", style="bold"), across_terminal(found.across))


def write_findings(found: SweepResults, out: str | Path | Folder) -> dict[str, str]:
    """Write ``table.md`` and ``table.csv``; returns the path of each.

    Of several tasks these are across tasks, and each task has its own pair in a folder of its name.

    Raises:
        UserError: ``out`` cannot be written.
    """
    folder = Folder.open(out)
    texts = {}
    for task, comparison in found.comparisons.items():
        texts[f"{found.folders[task]}table.md"] = markdown(comparison)
        texts[f"{found.folders[task]}table.csv"] = as_csv(comparison)
    if found.across is not None:
        texts["table.md"] = across_markdown(found.across)
        texts["table.csv"] = across_csv(found.across)
    return {name: folder.write(name, text) for name, text in texts.items()}


def draw_findings(found: SweepResults) -> dict[str, list[Picture]]:
    """The figures of each task, and under the name '' those across tasks."""
    drawn = {task: draw(found.parts[task], comparison) for task, comparison in found.comparisons.items()}
    if found.across is not None:
        with style():
            picture = attempt("across", partial(across_picture, found.across))
        drawn[""] = [] if picture is None else [picture]
    return drawn

"""The whole analysis of one sweep, or chosen parts of it, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Group

from ray_kd.analysis.across import Across
from ray_kd.analysis.answers import QUESTIONS
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.plot_style import Picture, attempt, left_out, style
from ray_kd.analysis.plots import draw_plots, write_pictures, write_plots
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, only_sweep, read_records
from ray_kd.analysis.report import report_html, tasks_report_html
from ray_kd.analysis.sweep_results import SweepResults, sweep_results, terminal_tables, write_comparison
from ray_kd.analysis.tables import write_tables
from ray_kd.config.errors import UserError, unknown

DEFAULT = ("tables", "comparison", "plots", "report")
"""What ``analyze`` writes unless told otherwise."""
PARTS = (*DEFAULT, "pictures", *QUESTIONS)
"""What it can write, by the name that ``only`` has for it: ``pictures`` runs the networks, and only for dense
tasks; each of ``QUESTIONS`` needs a sweep that was made to answer it."""


@dataclass
class Analysis:
    """What ``analyze`` read and wrote."""

    sweep: str
    records: Records
    files: dict[str, str] = field(default_factory=dict)
    """Name relative to the output folder -> full path: tables, plots, ``report.html``. With several tasks,
    each has a folder for its own files."""
    answers: str = ""
    """The tables of ``QUESTIONS`` that were chosen and what they say, as Markdown."""
    left_out: list[str] = field(default_factory=list)
    """A sentence for each figure that could not be drawn; everything else is written."""

    @cached_property
    def results(self) -> SweepResults:
        """The statistics, task by task."""
        return sweep_results(self.records)

    @property
    def headline(self) -> str:
        """One paragraph: the verdict on each strategy."""
        return self.results.headline

    @property
    def table(self) -> Group:
        """Headline, tables and notes, to print with rich."""
        return terminal_tables(self.results)

    @property
    def comparison(self) -> Comparison:
        """The comparison of the first task; most sweeps have one."""
        return next(iter(self.results.comparisons.values()))

    @property
    def across(self) -> Across | None:
        """The comparison across tasks; None where there is one task."""
        return self.results.across


def analyze(
    storage: str | Path,
    sweep: str | None = None,
    out: str | Path | None = None,
    only: str | Iterable[str] | None = None,
    strategy: str | None = None,
    images: int = 4,
) -> Analysis:
    """Read the records of a sweep, live or finished; write tables, comparison, plots and report.

    A sweep over several tasks gets tables and figures for each, and a table and a figure across them.

    Args:
        storage: directory or URI that holds ``runs/`` and ``sweeps/``.
        sweep: name of the sweep; may be left out where the storage holds one only.
        out: where to write; default ``<storage>/sweeps/<sweep>``.
        only: which of ``PARTS`` to write, as names or as one text with commas; default: the first four.
        strategy, images: of ``pictures``: whose student it shows (default: the one with the best mean), and
            on how many test images.

    Raises:
        UserError: no such storage, sweep or part; several sweeps and none named; ``out`` cannot be written;
            ``pictures`` of a sweep without dense tasks, or without the weights of its students;
            one of ``QUESTIONS`` of a sweep that cannot answer it.
    """
    chosen = parts(only)
    root = Folder.open(storage)
    sweep = only_sweep(root) if sweep is None else sweep
    found = Analysis(sweep, read_records(root, sweep))
    folder = Folder.open(out) if out is not None else root.sub(f"sweeps/{sweep}")
    if "tables" in chosen:
        written = write_tables(found.records, folder.sub("tables"))
        found.files.update({f"tables/{name}.parquet": path for name, path in written.items()})
    if "comparison" in chosen:
        found.files.update(write_comparison(found.results, folder))
    if chosen & {"plots", "report"}:
        drawn = draw_plots(found.results)
        found.left_out.extend(left_out(picture for pictures in drawn.values() for picture in pictures))
        if "plots" in chosen:
            found.files.update(write_plots(found.results, drawn, folder))
        if "report" in chosen:
            page = _report(found, drawn, root, str(storage))
            found.files["report.html"] = folder.write("report.html", page)
    if "pictures" in chosen:
        pictures = _predictions(found, root, strategy, images)
        written = write_pictures(pictures, folder.sub("plots"))
        found.files.update({f"plots/{name}": path for name, path in written.items()})
    for question in QUESTIONS:
        if question in chosen:
            _write_answer(question, found, root, folder)
    return found


def _write_answer(question: str, found: Analysis, root: Folder, folder: Folder) -> None:
    """The question's table as Markdown and CSV, and its figure, for each task."""
    for task, comparison in found.results.comparisons.items():
        answer = QUESTIONS[question](found.results.parts[task], comparison, root)
        own = found.results.folders[task]
        texts = {f"{own}{question}.md": answer.markdown, f"{own}{question}.csv": answer.csv}
        found.answers += f"{task.upper()}\n\n{answer.markdown}" if own else answer.markdown
        found.files.update({name: folder.write(name, text) for name, text in texts.items()})
        with style():
            picture = attempt(question, answer.draw)
        pictures = [] if picture is None else [picture]
        written = write_pictures(pictures, folder.sub(f"{own}plots"))
        found.left_out.extend(left_out(pictures))
        found.files.update({f"{own}plots/{name}": path for name, path in written.items()})


def parts(only: str | Iterable[str] | None) -> set[str]:
    """The chosen parts of an analysis; the default ones for None."""
    listed = DEFAULT if only is None else [only] if isinstance(only, str) else only
    chosen = {name.strip() for text in listed for name in text.split(",")}
    for name in sorted(chosen.difference(PARTS)):
        raise unknown("part", name, PARTS, where="only")
    return chosen


def _report(found: Analysis, drawn: dict[str, list[Picture]], root: Folder, storage: str) -> str:
    if found.across is None:
        ((task, comparison),) = found.results.comparisons.items()
        return report_html(found.records, comparison, drawn[task], root, storage)
    own = {task: (part, drawn[task]) for task, part in found.results.parts.items()}
    return tasks_report_html(found.records, found.across, own, drawn[""], root, storage)


def _predictions(found: Analysis, root: Folder, strategy: str | None, images: int) -> list[Picture]:
    """A figure for each dense task: what teacher, student alone and distilled student predict."""
    from ray_kd.analysis.plot_predictions import predictions_picture  # these two import PyTorch
    from ray_kd.analysis.predictions import DENSE, predict

    dense = [task for task in found.results.comparisons if task in DENSE]
    if not dense:
        raise UserError(
            f"only pictures: sweep '{found.sweep}' has no task of {' or '.join(DENSE)}, whose predictions "
            "can be drawn."
        )
    pictures = []
    for task in dense:
        comparison, records = found.results.comparisons[task], found.results.parts[task]
        predictions = predict(records, comparison, root, strategy, images)
        with style():
            pictures.append(predictions_picture(predictions))
    return pictures

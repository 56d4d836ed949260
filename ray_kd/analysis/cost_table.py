"""The metric beside its cost, as a table and a figure."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.answer import Answer
from ray_kd.analysis.cost import Cost
from ray_kd.analysis.headline import DASH, counted, number, quoted
from ray_kd.analysis.plot_style import GREY, OKABE_ITO, WIDTH, Picture, legend_below, render
from ray_kd.analysis.table_text import answer_text, csv_table

AXES = {"seconds": "Training, seconds", "parameters": "Parameters of the student"}


def cost_answer(found: Cost) -> Answer:
    """Sentences and table, the table as CSV, and the figure."""
    return Answer(_markdown(found), _csv(found), partial(_picture, found))


def findings(found: Cost) -> list[str]:
    """Who may be on the front, and who is not."""
    front = [cell.cell for cell in found.cells if cell.may_be_on_front]
    beaten = [cell for cell in found.cells if not cell.may_be_on_front]
    lines = [f"May be on the front, {len(front)} of {len(found.cells)}: {quoted(front)}."]
    if beaten:
        names = ", ".join(f"“{cell.cell}” (by {_by(cell.beaten_by)})" for cell in beaten)
        lines.append(f"Beaten by one that is better and costs less: {names}.")
    return lines


def _by(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"“{names[0]}”{more}"


def _markdown(found: Cost) -> str:
    metric, n = found.comparison.metric, len(found.seeds)
    figure = f"test {metric.title}"
    headings = ["cell", "training\nseconds", "parameters", figure, "may be on\nthe front", "beaten by"]
    rows = [
        [
            cell.cell,
            f"{cell.seconds:.4g}",
            f"{cell.parameters:,.0f}",
            f"{number(found.comparison, cell.value)}{' %' if metric.rate else ''}",
            "yes" if cell.may_be_on_front else "no",
            ", ".join(cell.beaten_by) or DASH,
        ]
        for cell in found.cells
    ]
    notes = [
        f"Means over {counted(n, 'seed')}. Beaten: another cell is better, takes less time and "
        "has no more parameters, by paired differences whose intervals exclude 0. All of these statements "
        "together err in at most 5 % of sweeps, so those that may be on the front hold all of it at 95 %; "
        "to be among them is no verdict.",
        "Seconds are those measured, of the student's training alone, without its teachers or a search. "
        "Where other work shared the machine their spread is large, and few cells are beaten.",
    ]
    if found.machines:
        notes.append(f"Seconds hardly compare: trials differ in {', '.join(found.machines)}.")
    if n == 1:
        notes.append("One seed has no spread to judge by: nothing is beaten for sure.")
    if found.lacking:
        notes.append(f"Not compared, since they lack seeds: {quoted(found.lacking)}.")
    return answer_text(findings(found), headings, rows, notes)


def _csv(found: Cost) -> str:
    columns = ["cell", "n", "seconds", "parameters", "value", "may_be_on_front", "beaten_by"]
    rows = [
        [
            cell.cell,
            len(found.seeds),
            cell.seconds,
            cell.parameters,
            cell.value,
            cell.may_be_on_front,
            "; ".join(cell.beaten_by),
        ]
        for cell in found.cells
    ]
    return csv_table(columns, rows)


def _picture(found: Cost) -> Picture:
    """A point for each cell over each cost that differs among them; filled: it may be on the front."""
    metric, scale = found.comparison.metric, found.comparison.metric.scale
    shown = [name for name in AXES if name == "seconds" or len({cell.parameters for cell in found.cells}) > 1]
    figure = Figure(figsize=(WIDTH, 3.2))
    handles = []
    for panel, name in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        prices = [getattr(cell, name) for cell in found.cells]
        panel.xaxis.set_major_locator(MaxNLocator(5))
        for index, (cell, price) in enumerate(zip(found.cells, prices, strict=True), 1):
            colour = OKABE_ITO[0] if cell.may_be_on_front else GREY
            filled = colour if cell.may_be_on_front else "white"
            look: dict[str, Any] = {
                "marker": "o",
                "color": colour,
                "mfc": filled,
                "markersize": 5.5,
                "linestyle": "none",
            }
            panel.plot([price], [scale * cell.value], **look)
            at = (price, scale * cell.value)
            panel.annotate(str(index), at, (4, 3), textcoords="offset points", fontsize=7.5)
            if name == "seconds":
                handles.append(Line2D([], [], label=f"{index}  {cell.cell}", **look))
        panel.set_xlabel(AXES[name])
        panel.margins(0.08)
    figure.axes[0].set_ylabel(f"Test {metric.title}{', %' if metric.rate else ''}")
    legend_below(figure, handles, most=3)
    caption = (
        f"Means over {counted(len(found.seeds), 'seed')}. Filled: may be on the front; hollow: another cell "
        "is better and costs less, for sure. All of these statements hold together at 95 %."
    )
    return render(figure, "cost", f"Test {metric.title} beside its cost", caption)

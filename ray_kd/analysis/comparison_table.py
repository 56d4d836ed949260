"""The table of a comparison: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.headline import DASH, headline, notes, number, p_value
from ray_kd.analysis.table_text import csv_table, markdown_list, markdown_table
from ray_kd.config import names
from ray_kd.config.ending import STATES


@dataclass(frozen=True)
class Row:
    """One printed row; every entry is text."""

    entries: tuple[str, ...]
    best: bool
    verdict: str
    """better or worse where the test is significant, else empty."""


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The headings of the columns; a line feed divides a heading from its unit."""
    metric = comparison.metric
    unit = ", %" if metric.rate else ""
    points = "\npoints" if metric.rate else "\n "
    return (
        "strategy\n ",
        f"test {metric.title}\nbest{unit}",
        f"test\nlast{unit}",
        "agree\n%",
        f"difference{points}",
        "p\nHolm",
        "time\ns",
        "n\n ",
    )


def rows(comparison: Comparison) -> list[Row]:
    """A row for each cell, in the plan's order; what searches chose comes last."""
    return [row for _, group in sections(comparison) for row in group]


def sections(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    """The rows under a title each: as they were set, and as a search chose; one without title if none did."""
    groups = [
        (title, [_row(comparison, cell) for cell in comparison.cells if cell.searched == searched])
        for title, searched in (("Settings as given", False), ("Settings chosen by a search", True))
    ]
    groups = [(title, group) for title, group in groups if group]
    return groups if len(groups) > 1 else [("", group) for _, group in groups]


def _row(comparison: Comparison, cell: Cell) -> Row:
    versus = cell.versus
    difference, p, verdict = DASH, DASH, ""
    if comparison.is_reference(cell):
        difference = "baseline"
    elif versus is not None:
        difference = _with_spread(comparison, versus.difference.mean, versus.difference.half_width, sign=True)
        p = p_value(versus.holm) + ("*" if versus.significant else "")
        if versus.significant:
            verdict = "better" if comparison.metric.better(versus.difference.mean, 0.0) else "worse"
    agreement = cell.agreement.mean
    entries = (
        cell.name,
        _with_spread(comparison, cell.best.mean, cell.best.half_width),
        number(comparison, cell.last.mean),
        DASH if math.isnan(agreement) else f"{100 * agreement:.1f}",
        difference,
        p,
        DASH if math.isnan(cell.seconds.mean) else _seconds(cell.seconds.mean),
        str(cell.n) if cell.n == cell.planned else f"{cell.n}/{cell.planned}",
    )
    return Row(entries, cell is comparison.best, verdict)


def _with_spread(comparison: Comparison, mean: float, half_width: float, sign: bool = False) -> str:
    text = number(comparison, mean, sign=sign)
    return text if math.isnan(half_width) else f"{text} ± {number(comparison, half_width)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def terminal(comparison: Comparison) -> Group:
    """Headline, table and notes, for a terminal of 80 columns or more."""
    listed = [Text(f"· {note}", style="dim") for note in notes(comparison)]
    return Group(Text(headline(comparison)), Text(), terminal_table(comparison), Text(), *listed)


def terminal_table(comparison: Comparison) -> Table:
    """The table alone; long names of strategies fold."""
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, collapse_padding=True
    )
    for index, heading in enumerate(headings(comparison)):
        first = index == 0
        table.add_column(
            heading,
            justify="left" if first else "right",
            overflow="fold",
            no_wrap=not first,
            min_width=12 if first else None,
        )
    colours = {"better": "green", "worse": "red", "": ""}
    for _, group in sections(comparison):
        for row in group:
            cells = [Text(entry) for entry in row.entries]
            for index in (4, 5):
                cells[index].stylize(colours[row.verdict])
            table.add_row(*cells, style="bold" if row.best else "")
        table.add_section()
    return table


def markdown(comparison: Comparison) -> str:
    """Headline, table and notes as Markdown; the best mean is bold."""
    lines = [names.markdown(headline(comparison))]
    for title, group in sections(comparison):
        lines += ["", f"**{title}**"] if title else []
        lines += ["", *markdown_table(headings(comparison), [(row.entries, row.best) for row in group])]
    return "\n".join([*lines, *markdown_list(notes(comparison))])


CSV_COLUMNS = (
    *("strategy", "metric", "planned", "n"),
    *STATES,
    *("best_mean", "best_low", "best_high"),
    *("last_mean", "last_low", "last_high"),
    *("agreement_mean", "agreement_low", "agreement_high"),
    *("difference_mean", "difference_low", "difference_high"),
    *("pairs", "p", "p_holm", "seconds_mean"),
)
"""Fractions in [0, 1] for rates, at full precision; empty where there is no value."""


def as_csv(comparison: Comparison) -> str:
    """The numbers behind the table."""
    rows = []
    for cell in comparison.cells:
        versus = cell.versus
        difference = versus.difference if versus else None
        values: list[object] = [cell.name, comparison.metric.name, cell.planned, cell.n]
        values += [cell.statuses.get(state, 0) for state in STATES]
        for figure in (cell.best, cell.last, cell.agreement, difference):
            values += [figure.mean, figure.low, figure.high] if figure else [math.nan] * 3
        values += [difference.n if difference else math.nan]
        values += [versus.p, versus.holm] if versus else [math.nan] * 2
        rows.append([*values, cell.seconds.mean])
    return csv_table(CSV_COLUMNS, rows)

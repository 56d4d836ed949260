"""The table of a comparison: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.contenders import chances
from ray_kd.analysis.headline import DASH, headline, look_text, number, p_value, with_bounds
from ray_kd.analysis.notes import notes
from ray_kd.analysis.schema import COMPARISON
from ray_kd.analysis.table_text import csv_table, markdown_list, markdown_table
from ray_kd.config import names
from ray_kd.config.ending import STATES
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Verdict

CSV_COLUMNS = tuple(name for name, _, _ in COMPARISON if name != "task")
"""Of table.csv, which has one task; rates are fractions in [0, 1], at full precision."""
VERDICT = 5
"""The column of the verdict; the difference stands before it."""
LEAST = {0: 12, VERDICT: 8}
"""Columns that may fold, and to which width."""
SPARE = {9: "time", 3: "agree", 2: "last", 7: "p"}
"""Columns that a narrow terminal does without, in this order, and what notes call them."""
TERMINAL = 80
MOST = 200
"""Strategies in the tables of a terminal and of the report, beside the references; files have all."""

DECIDED = tuple(verdict.value for verdict in Verdict if verdict.decided)
"""The verdicts that Markdown prints bold; nothing else of a table is."""
COLOURS = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.SAME: "magenta"}


@dataclass(frozen=True)
class Row:
    """One printed row; every entry is text."""

    entries: tuple[str, ...]
    verdict: Verdict | None
    """None of a reference."""


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The headings of the columns; a line feed divides a heading from its unit."""
    metric = comparison.metric
    unit = ", %" if metric.rate else ""
    points = "\npoints" if metric.rate else "\n "
    return (
        "strategy\n ",
        f"test {metric.title}\nbest{unit}",
        "test\nlast",
        "agree\n%",
        f"difference{points}",
        "verdict\n ",
        "look\n ",
        "p\n ",
        "n\n ",
        "time\ns",
    )


def rows(comparison: Comparison, most: int | None = None) -> list[Row]:
    """A row for each cell, in the plan's order; what searches chose comes last."""
    return [row for _, group in sections(comparison, most) for row in group]


def sections(comparison: Comparison, most: int | None = None) -> list[tuple[str, list[Row]]]:
    """The rows under a title each: as they were set, and as a search chose; one without title if none did.

    Args:
        most: of more cells the foremost; None: all.
    """
    cells = comparison.cells if most is None else comparison.foremost(most)
    groups = [
        (title, [_row(comparison, cell) for cell in cells if cell.searched == searched])
        for title, searched in (("Settings as given", False), ("Settings chosen by a search", True))
    ]
    groups = [(title, group) for title, group in groups if group]
    return groups if len(groups) > 1 else [("", group) for _, group in groups]


def _row(comparison: Comparison, cell: Cell) -> Row:
    versus = cell.versus
    beside = ("baseline" if comparison.is_reference(cell) else DASH, DASH, DASH, DASH)
    if versus is not None:
        beside = (
            with_bounds(comparison, versus.difference),
            versus.verdict.value,
            look_text(versus),
            p_value(versus.judged.p),
        )
    agreement = cell.agreement.mean
    entries = (
        cell.name,
        _with_spread(comparison, cell.best),
        number(comparison, cell.last.mean),
        DASH if math.isnan(agreement) else f"{100 * agreement:.1f}",
        *beside,
        _trials(cell),
        DASH if math.isnan(cell.seconds.mean) else _seconds(cell.seconds.mean),
    )
    return Row(entries, None if versus is None else versus.verdict)


def _trials(cell: Cell) -> str:
    """Trials that count, of those that the verdict still needs."""
    judged = None if cell.versus is None else cell.versus.judged
    enough = judged is not None and (judged.verdict.decided or judged.hopeless)
    return str(cell.n) if enough or cell.n == cell.needed else f"{cell.n}/{cell.needed}"


def _with_spread(comparison: Comparison, shown: Interval) -> str:
    text = number(comparison, shown.mean)
    return text if math.isnan(shown.low) else f"{text} ± {number(comparison, shown.half_width)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def terminal(comparison: Comparison) -> Group:
    """Headline, table and notes, for a terminal of 80 columns or more."""
    kept = _that_fit([headings(comparison), *(row.entries for row in rows(comparison, MOST))])
    left_out = [name for index, name in SPARE.items() if index not in kept]
    said = filter(None, (comparison.left_out(MOST), *notes(comparison, left_out)))
    listed = [Text(f"· {note}", style="dim") for note in said]
    return Group(Text(headline(comparison)), Text(), terminal_table(comparison), Text(), *listed)


def terminal_table(comparison: Comparison) -> Table:
    """The table alone. Long names fold; columns of ``SPARE`` that find no room in 80 are left out."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    kept = _that_fit([headings(comparison), *(row.entries for row in rows(comparison, MOST))])
    for index in kept:
        first = index == 0
        table.add_column(
            headings(comparison)[index],
            justify="left" if first else "right",
            overflow="fold",
            no_wrap=index not in LEAST,
            min_width=LEAST.get(index),
            max_width=None if first else LEAST.get(index),
        )
    for _, group in sections(comparison, MOST):
        for row in group:
            cells = [Text(entry) for entry in row.entries]
            for index in (VERDICT - 1, VERDICT):
                cells[index].stylize("" if row.verdict is None else COLOURS.get(row.verdict, ""))
            table.add_row(*(cells[index] for index in kept))
        table.add_section()
    return table


def _that_fit(lines: list[tuple[str, ...]]) -> list[int]:
    """The columns that a terminal of 80 has room for."""
    widest = [
        max(len(part) for entry in column for part in entry.split("\n"))
        for column in zip(*lines, strict=True)
    ]
    widths = {index: min(width, LEAST.get(index, width)) for index, width in enumerate(widest)}
    for spare in SPARE:
        if sum(widths.values()) + len(widths) - 1 <= TERMINAL:
            break
        del widths[spare]
    return list(widths)


def markdown(comparison: Comparison) -> str:
    """Headline, table and notes as Markdown; verdicts that are decided are bold."""
    lines = [names.markdown(headline(comparison))]
    for title, group in sections(comparison):
        lines += ["", f"**{title}**"] if title else []
        lines += ["", *markdown_table(headings(comparison), [row.entries for row in group], DECIDED)]
    return "\n".join([*lines, *markdown_list(notes(comparison))])


def records_of(comparison: Comparison) -> list[dict[str, object]]:
    """The numbers behind the table, a row for each strategy: the columns of ``schema.COMPARISON``."""
    found, best, shares = [], comparison.contenders, chances(comparison)
    for cell in comparison.cells:
        versus = cell.versus
        row: dict[str, object] = {
            "strategy": cell.name,
            "metric": comparison.metric.name,
            "planned": cell.planned,
            "n": cell.n,
            **{state.replace(" ", "_"): cell.statuses.get(state, 0) for state in STATES},
            "seconds_mean": cell.seconds.mean,
        }
        if best is not None and cell.name in best.contenders:
            row["may_be_best"] = best.contenders[cell.name].may_be_best
        if cell.name in shares:
            share = shares[cell.name]
            row |= {"beats": share.wins / share.n, "beats_low": share.low, "beats_high": share.high}
        figures = {"best": cell.best, "last": cell.last, "agreement": cell.agreement}
        if versus is not None:
            figures["difference"] = versus.difference
            row |= {
                "reference": versus.reference,
                "pairs": versus.difference.n,
                "verdict": versus.verdict.value,
                "look": versus.judged.look,
                "looks": " ".join(map(str, versus.looks.at)),
                "level": versus.level,
                "p": versus.judged.p,
                "margin": versus.looks.margin,
                "lost": versus.judged.lost,
                "hopeless": versus.judged.hopeless,
                "skewed": versus.judged.skewed,
            }
        for name, figure in figures.items():
            row |= {f"{name}_mean": figure.mean, f"{name}_low": figure.low, f"{name}_high": figure.high}
        found.append(row)
    return found


def as_csv(comparison: Comparison) -> str:
    """The numbers behind the table; empty where there is no value."""
    rows = records_of(comparison)
    return csv_table(CSV_COLUMNS, [[row.get(name) for name in CSV_COLUMNS] for row in rows])

"""The table across tasks: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ray_kd.analysis.across import Across, Gap, Standing
from ray_kd.analysis.headline import DASH, number
from ray_kd.analysis.table_text import csv_table, markdown_list, markdown_table
from ray_kd.config import names
from ray_kd.statistics.bootstrap import Ratio

UNDEFINED = "undefined"
_MINUS = "\N{MINUS SIGN}"


def across_headline(across: Across) -> str:
    """One paragraph: the strategy with the best mean rank, and its gain."""
    best = across.best
    if best is None:
        return "No result across tasks yet: no strategy has finished in every task."
    where = _all_of([gap.task for gap in across.gaps])
    text = f"Over {where}, “{best.name}” has the best mean rank: {_rank(best)} of {across.ranked}."
    gain = best.mean_gain
    if best.name == across.baseline or not gain.known:
        return text
    tasks = [gap.task for gap in across.gaps if not gap.trouble]
    return (
        f"{text} It goes {_percent(gain.value)} % of the way from “{across.baseline}” to the teacher "
        f"(95 % CI {_percent(gain.low)} to {_percent(gain.high)}), the mean of {_all_of(tasks)}."
    )


def across_notes(across: Across) -> list[str]:
    """What a reader of the table must know."""
    pairs = [gain.n for standing in across.standings for gain in standing.gains.values()]
    lines = [
        "rank: by the strategy's mean test metric in each task (1 is best), mean over tasks; ranks are not "
        "tested for significance.",
    ]
    if across.baseline is None:
        return [*lines, "gain: undefined, since the sweep names no baseline.", *across.notes]
    lines.append(
        f"gain: (strategy {_MINUS} {across.baseline}) / (teacher {_MINUS} {across.baseline}), a ratio of "
        f"means over common seeds of the test metric of the weights that were best on validation: 0 % is "
        f"“{across.baseline}”, 100 % the teacher. Brackets: 95 % bootstrap percentile interval over seeds, "
        "paired, not corrected for the number of strategies. mean: over the tasks where a gain is defined; "
        "seeds are resampled in each task separately."
    )
    if pairs and min(pairs) <= 5:
        lines[1] += f" With {min(pairs)} seeds such an interval tends to be too narrow."
    lines += [_gap_note(across, gap) for gap in across.gaps]
    lines.append("The teacher is one run: no interval includes its variation from seed to seed.")
    return [*lines, *across.notes]


def _gap_note(across: Across, gap: Gap) -> str:
    comparison, unit = gap.comparison, " %" if gap.comparison.metric.rate else ""
    points = " points" if comparison.metric.rate else ""
    text = f"{gap.task} (test {comparison.metric.title}): "
    if comparison.baseline is not None:
        text += f"{across.baseline} {number(comparison, comparison.baseline.best.mean)}{unit}, "
    text += f"teacher {number(comparison, gap.teacher)}{unit}"
    if not math.isnan(gap.size.mean):
        bounds = "" if math.isnan(gap.size.low) else f" ± {number(comparison, gap.size.half_width)}"
        text += f", gap {number(comparison, gap.size.mean)}{bounds}{points} (95 % t-interval)"
    return text + (f"; gains are undefined: {gap.trouble}." if gap.trouble else ".")


def across_headings(across: Across) -> tuple[str, ...]:
    """The headings of the columns; a line feed divides a heading from its unit."""
    tasks = [f"{gap.task}\ngain, %" for gap in across.gaps]
    return ("strategy\n ", "mean\nrank", *tasks, "mean\ngain, %")


def across_rows(across: Across) -> list[tuple[Standing, tuple[str, ...]]]:
    """Each strategy and the entries of its row."""
    rows = []
    for standing in across.standings:
        alone = standing.name == across.baseline
        gains = [
            UNDEFINED if gap.trouble else _gain(standing.gains.get(gap.task), alone) for gap in across.gaps
        ]
        mean = _gain(standing.mean_gain, alone)
        rows.append((standing, (standing.name, _rank(standing), *gains, mean)))
    return rows


def _rank(standing: Standing) -> str:
    return DASH if math.isnan(standing.mean_rank) else f"{standing.mean_rank:.1f}"


def _gain(gain: Ratio | None, alone: bool) -> str:
    if gain is None or not gain.known:
        return DASH
    if alone:
        return "0"
    bounds = "" if math.isnan(gain.low) else f" [{_percent(gain.low)}, {_percent(gain.high)}]"
    return _percent(gain.value) + bounds


def _percent(value: float) -> str:
    return f"{100 * value:.0f}".replace("-0", "0" if abs(value) < 0.005 else "-0").replace("-", _MINUS)


def across_terminal(across: Across) -> Group:
    """Headline, table and notes, for a terminal of 80 columns or more."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for index, heading in enumerate(across_headings(across)):
        first, widest = index == 0, max(len(line) for line in heading.split("\n"))
        table.add_column(
            heading,
            justify="left" if first else "right",
            overflow="fold",
            min_width=12 if first else widest,  # an interval that finds no room goes below its gain
        )
    for standing, entries in across_rows(across):
        table.add_row(*map(Text, entries), style="bold" if standing is across.best else "")
    listed = [Text(f"· {note}", style="dim") for note in across_notes(across)]
    return Group(Text(across_headline(across)), Text(), table, Text(), *listed)


def across_markdown(across: Across) -> str:
    """Headline, table and notes as Markdown; the best mean rank is bold."""
    rows = [(entries, standing is across.best) for standing, entries in across_rows(across)]
    table = markdown_table(across_headings(across), rows)
    return "\n".join(
        [names.markdown(across_headline(across)), "", *table, *markdown_list(across_notes(across))]
    )


ACROSS_COLUMNS = (
    *("strategy", "task", "metric", "n", "mean", "rank"),
    *("teacher", "gap_mean", "gap_low", "gap_high"),
    *("gain", "gain_low", "gain_high"),
)
"""A row for each strategy and task, and one for each strategy with the task ``all``: mean rank, mean gain."""


def across_csv(across: Across) -> str:
    """The numbers behind the table, at full precision; empty where there is no value."""
    rows: list[list[object]] = []
    for standing in across.standings:
        for gap in across.gaps:
            cell, gain = standing.cells.get(gap.task), standing.gains.get(gap.task, Ratio())
            if cell is None:
                continue
            row: list[object] = [standing.name, gap.task, gap.comparison.metric.name, cell.n, cell.best.mean]
            row += [standing.ranks.get(gap.task, math.nan), gap.teacher]
            rows.append([*row, gap.size.mean, gap.size.low, gap.size.high, gain.value, gain.low, gain.high])
        mean = standing.mean_gain
        empty = [math.nan] * 4
        row = [standing.name, "all", "", "", math.nan, standing.mean_rank, *empty]
        rows.append([*row, mean.value, mean.low, mean.high])
    return csv_table(ACROSS_COLUMNS, rows)


def _all_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

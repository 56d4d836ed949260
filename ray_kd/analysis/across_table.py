"""The table across tasks: for the terminal, as Markdown, and as CSV."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ray_kd.analysis.across import Across, Gap, Standing
from ray_kd.analysis.headline import DASH, NAMED, joined, number
from ray_kd.analysis.table_text import csv_table, markdown_list, markdown_table
from ray_kd.config import names
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Verdict

UNDEFINED = "undefined"
_COUNTED = {Verdict.BETTER: "better\nin", Verdict.WORSE: "worse\nin", Verdict.SAME: "same\nin"}
"""The verdicts that are counted over tasks, with the headings of their columns."""
_MINUS = "\N{MINUS SIGN}"


def across_headline(across: Across) -> str:
    """One paragraph: in how many tasks each strategy is better or worse than the baseline."""
    if not any(gap.comparison.started for gap in across.gaps):
        return "No result across tasks yet: no trial has finished."
    if not across.compared:
        why = "the sweep names no baseline" if across.baseline is None else "no baseline has finished trials"
        return f"No strategy was compared with another in any task, since {why}."
    tasks = f"{len(across.gaps)} tasks"
    decided = [one for one in across.compared if one.tasks_of(Verdict.BETTER) or one.tasks_of(Verdict.WORSE)]
    if not decided:
        return (
            f"No strategy is shown to be better or worse than “{across.baseline}” in any of {tasks} "
            f"({joined([gap.task for gap in across.gaps])})."
        )
    parts = [_counted(one) for one in decided[:NAMED]]
    if len(decided) > NAMED:
        parts.append(f"{len(decided) - NAMED} more strategies are in some")
    rest = len(across.compared) - len(decided)
    text = f"Beside “{across.baseline}”, in {tasks}: {'; '.join(parts)}."
    return (
        text
        + (f" The other {rest} are neither in any task." if rest > 1 else "")
        + (" The other one is neither in any task." if rest == 1 else "")
    )


def _counted(standing: Standing) -> str:
    counts = {verdict: standing.tasks_of(verdict) for verdict in (Verdict.BETTER, Verdict.WORSE)}
    said = [f"{verdict} in {count}" for verdict, count in counts.items() if count]
    return f"“{standing.name}” is {' and '.join(said)}"


def across_notes(across: Across) -> list[str]:
    """What a reader of the table must know."""
    if across.baseline is None:
        return ["gain: undefined, since the sweep names no baseline.", *across.notes]
    lines = [
        f"better, worse, the same: in how many tasks that is the verdict beside “{across.baseline}”. The "
        "intervals of one task hold together at 95 %, not those of all tasks.",
        f"gain: (strategy {_MINUS} {across.baseline}) / (teacher {_MINUS} {across.baseline}), a ratio of "
        "means over common seeds of the test metric of the weights that were best on validation: 0 % is "
        f"“{across.baseline}”, 100 % the teacher. Brackets: Fieller's interval of this ratio at the error of "
        "the verdict's interval, so that it excludes 0 exactly where the strategy is better or worse; none "
        "where at that error the gap might be 0. mean: over the tasks where a gain is defined; it only "
        "describes.",
        *(_gap_note(across, gap) for gap in across.gaps),
        *_shared(across),
    ]
    return [*lines, *across.notes]


def _shared(across: Across) -> list[str]:
    """A sentence where one teacher serves all seeds."""
    one = [gap.task for gap in across.gaps if not gap.own and gap.by_seed]
    if not one:
        return []
    where = "" if len(one) == len(across.gaps) else f" in {joined(one)}"
    return [f"One teacher serves all seeds{where}: no interval there includes its variation from run to run."]


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
    return ("strategy\n ", *(_COUNTED.values()), *tasks, "mean\ngain, %")


def across_rows(across: Across) -> list[tuple[str, ...]]:
    """The entries of each row."""
    rows = []
    for standing in across.standings:
        alone = standing.name == across.baseline
        gains = [
            UNDEFINED if gap.trouble else _gain(standing.gains.get(gap.task), alone) for gap in across.gaps
        ]
        counts = [str(standing.tasks_of(verdict)) for verdict in _COUNTED]
        if standing not in across.compared:
            counts = [DASH] * len(_COUNTED)
        mean = DASH if math.isnan(standing.mean_gain) else "0" if alone else _percent(standing.mean_gain)
        rows.append((standing.name, *counts, *gains, mean))
    return rows


def _gain(gain: Interval | None, alone: bool) -> str:
    if gain is None:
        return DASH
    if alone:
        return "0"
    bounds = "" if math.isnan(gain.low) else f" [{_percent(gain.low)}, {_percent(gain.high)}]"
    return _percent(gain.mean) + bounds


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
    for entries in across_rows(across):
        table.add_row(*map(Text, entries))
    listed = [Text(f"· {note}", style="dim") for note in across_notes(across)]
    return Group(Text(across_headline(across)), Text(), table, Text(), *listed)


def across_markdown(across: Across) -> str:
    """Headline, table and notes as Markdown."""
    table = markdown_table(across_headings(across), across_rows(across))
    return "\n".join(
        [names.markdown(across_headline(across)), "", *table, *markdown_list(across_notes(across))]
    )


ACROSS_COLUMNS = (
    *("strategy", "task", "metric", "n", "mean", "verdict", "look", "rank"),
    *("teacher", "gap_mean", "gap_low", "gap_high"),
    *("gain", "gain_low", "gain_high"),
)
"""A row for each strategy and task, and one for each strategy with the task ``all``: mean rank, mean gain."""


def across_csv(across: Across) -> str:
    """The numbers behind the table, at full precision; empty where there is no value."""
    rows: list[list[object]] = []
    for standing in across.standings:
        for gap in across.gaps:
            cell, gain = standing.cells.get(gap.task), standing.gains.get(gap.task)
            if cell is None:
                continue
            row: list[object] = [standing.name, gap.task, gap.comparison.metric.name, cell.n, cell.best.mean]
            row += [cell.versus.verdict.value, cell.versus.judged.look] if cell.versus else ["", ""]
            row += [standing.ranks.get(gap.task, math.nan), gap.teacher]
            row += [gap.size.mean, gap.size.low, gap.size.high]
            rows.append([*row, *([gain.mean, gain.low, gain.high] if gain else [math.nan] * 3)])
        mean = [standing.mean_gain, math.nan, math.nan]
        blank = [math.nan] * 4
        rows.append([standing.name, "all", "", "", math.nan, "", "", standing.mean_rank, *blank, *mean])
    return csv_table(ACROSS_COLUMNS, rows)

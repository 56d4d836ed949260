"""What searches find at each budget, as a table and a figure."""

from __future__ import annotations

import math
from functools import partial

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.answer import Answer
from ray_kd.analysis.budget import BUDGETS, Budget
from ray_kd.analysis.headline import DASH, number
from ray_kd.analysis.plot_style import WIDTH, Picture, legend_below, looks_of, render
from ray_kd.analysis.table_text import answer_text, csv_table
from ray_kd.statistics.intervals import Interval

NAMED = 12
"""Passings that the text lists."""


def budget_answer(found: Budget) -> Answer:
    """Sentences and table, the table as CSV with every budget, and the figure."""
    return Answer(_markdown(found), _csv(found), partial(_picture, found))


def findings(found: Budget) -> list[str]:
    """Who is ahead at which budget, where that changes, and at which budgets intervals lie apart."""
    leaders: dict[str, list[int]] = {}
    for n in _shown(found):
        points = {curve.cell: point for curve in found.curves if (point := curve.at(n)) is not None}
        best = max if found.comparison.metric.mode == "max" else min
        leaders.setdefault(best(points, key=lambda cell: points[cell].mean), []).append(n)
    ahead = "; ".join(f"“{cell}” at {', '.join(map(str, at))}" for cell, at in leaders.items())
    lines = [f"Ahead on average, by the number of candidates: {ahead}."]
    if len(found.curves) < 2:
        return lines
    said = [
        f"from {one.budget} on “{one.ahead}” is ahead of “{one.behind}” ({'' if one.sure else 'not '}sure)"
        for one in found.passings[:NAMED]
    ]
    more = f"; and {len(found.passings) - NAMED} more" if len(found.passings) > NAMED else ""
    lines.append(f"The order changes: {'; '.join(said)}{more}." if said else "The order does not change.")
    apart = [(n, *found.apart(n)) for n in _shown(found)]
    counts = ", ".join(f"{count} of {pairs} at {n}" for n, count, pairs in apart if pairs)
    lines.append(f"Pairs of cells whose intervals lie apart: {counts}.")
    return lines


def _shown(found: Budget) -> list[int]:
    most = max(len(curve.points) for curve in found.curves)
    return [n for n in BUDGETS if n <= most]


def _markdown(found: Budget) -> str:
    metric, budgets = found.comparison.metric, _shown(found)
    headings = ["cell", "candidates", *(f"best of {n}\n{metric.percent}; median" for n in budgets)]
    rows = [
        [curve.cell, str(len(curve.points)), *(_entry(found, curve.at(n)) for n in budgets)]
        for curve in found.curves
    ]
    notes = [
        f"The mean best validation {metric.title} of random searches of so many candidates, without bias "
        "(Tang et al., ACL 2020); after it a 95 % interval for the median of such searches, whatever the "
        "distribution of candidates (order statistics; Lourie et al., 2023); each interval by itself. Where "
        "some candidates are far worse than most, the mean lies below it.",
        f"An end that is {DASH} is not bounded: these candidates are too few to say how far it may lie.",
        "sure: the intervals of the two lie apart, in one order at a smaller budget, then in the other.",
        "Validation figures chose the best epoch of each candidate, and are no figures of test data.",
        *(
            f"“{curve.cell}”: {curve.failed} candidates failed; its budget counts those that finish."
            for curve in found.curves
            if curve.failed
        ),
        *(f"Nothing is said of “{cell}”: {reason}." for cell, reason in found.refused.items()),
    ]
    return answer_text(findings(found), headings, rows, notes)


def _entry(found: Budget, point: Interval | None) -> str:
    if point is None:
        return DASH
    ends = (DASH if math.isinf(end) else number(found.comparison, end) for end in (point.low, point.high))
    return f"{number(found.comparison, point.mean)}; {' to '.join(ends)}"


def _csv(found: Budget) -> str:
    columns = ["cell", "candidates", "expected", "median_low", "median_high"]
    rows = [
        [
            curve.cell,
            n,
            point.mean,
            *(math.nan if math.isinf(end) else end for end in (point.low, point.high)),
        ]
        for curve in found.curves
        for n, point in enumerate(curve.points, 1)
    ]
    return csv_table(columns, rows)


def _picture(found: Budget) -> Picture:
    """A line for each cell; a band as far as it is bounded on both sides, and thin lines for its ends."""
    figure = Figure(figsize=(WIDTH, 3.2))
    axes, scale = figure.subplots(), found.comparison.metric.scale
    handles = []
    looks = looks_of(len(found.curves))
    for curve, (colour, line) in zip(found.curves, looks, strict=True):
        budgets = range(1, len(curve.points) + 1)
        axes.plot(budgets, [scale * point.mean for point in curve.points], color=colour, linestyle=line)
        low, high = (
            [scale * end if math.isfinite(end) else math.nan for end in ends]
            for ends in ([point.low for point in curve.points], [point.high for point in curve.points])
        )
        axes.fill_between(budgets, low, high, color=colour, alpha=0.12, lw=0)
        for bound in (low, high):
            axes.plot(budgets, bound, color=colour, lw=0.6, alpha=0.7)
        handles.append(Line2D([], [], color=colour, linestyle=line, label=curve.cell))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Candidates of a random search")
    metric = found.comparison.metric
    axes.set_ylabel(f"Best validation {metric.title}{', %' if metric.rate else ''}")
    legend_below(figure, handles)
    caption = (
        "Mean best validation figure of random searches, without bias. Bands: 95 % intervals of their "
        "median, each by itself, where the candidates bound it on both sides; thin lines: its bounds."
    )
    return render(figure, "budget", "What a search finds at which budget", caption)

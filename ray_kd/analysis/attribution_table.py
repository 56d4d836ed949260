"""What each path is worth, as a table and a figure."""

from __future__ import annotations

import math
from functools import partial

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_kd.analysis.answer import Answer
from ray_kd.analysis.attribution import Attribution, PathWorth
from ray_kd.analysis.headline import counted, number, quoted, with_bounds
from ray_kd.analysis.plot_style import GREY, WIDTH, Picture, colours, legend_below, name_rows, render, wrapped
from ray_kd.analysis.table_text import answer_text, csv_table
from ray_kd.analysis.verdicts import shown
from ray_kd.statistics.looks import Judged, Verdict


def attribution_answer(found: Attribution) -> Answer:
    """Sentences and table, the table as CSV, and the figure."""
    return Answer(_markdown(found), _csv(found), partial(_picture, found))


def findings(found: Attribution) -> list[str]:
    """A sentence on the Shapley values, and one on what the whole set loses without each path."""
    metric = found.comparison.metric.title
    ways = (
        (f"Test {metric} with the path, over all orders in which paths can join (Shapley value)", "shapley"),
        (f"Test {metric} with all paths, beside all but the one (leave-one-out)", "left_out"),
    )
    lines = []
    for lead, name in ways:
        groups = {
            verdict: quoted(one.path for one in found.paths if getattr(one, name).verdict is verdict)
            for verdict in Verdict
        }
        parts = [f"{verdict.value}: {paths}" for verdict, paths in groups.items() if paths]
        lines.append(f"{lead} is {'; '.join(parts)}.")
    return lines


def _markdown(found: Attribution) -> str:
    comparison, m = found.comparison, len(found.paths)
    points = comparison.metric.points
    headings = ["path", f"Shapley value\n{points}", "verdict", f"leave-one-out\n{points}", "verdict"]
    rows = [
        [
            one.path,
            with_bounds(comparison, shown(one.shapley)),
            one.shapley.verdict.value,
            with_bounds(comparison, shown(one.left_out)),
            one.left_out.verdict.value,
        ]
        for one in found.paths
    ]
    level = 1 - found.looks.error(found.looks.at[-1])
    total = sum(one.shapley.difference.mean for one in found.paths)
    whole = frozenset(one.path for one in found.paths)
    notes = [
        f"Differences in test {comparison.metric.title} over {counted(len(found.values), 'seed')}, from "
        f"{len(found.cells)} cells: "
        f"all subsets of {m} paths. The Shapley values add up to {number(comparison, total, sign=True)}, the "
        f"difference between “{found.cells[whole]}” and “{found.cells[frozenset()]}”.",
        f"In brackets the interval that carries the verdict, at {100 * level:.4g} %: the {m} intervals of a "
        "column hold together at 95 %, those of the two columns do not.",
        *_warnings(found),
    ]
    return answer_text(findings(found), headings, rows, notes)


def _warnings(found: Attribution) -> list[str]:
    notes = []
    every = [one for worth in found.paths for one in (worth.shapley, worth.left_out)]
    if found.lost:
        notes.append(f"{found.lost} of {found.looks.at[0]} seeds were lost to failures: no verdict.")
    elif not every[0].look:
        notes.append(
            f"Not all trials of {found.looks.at[0]} seeds have ended: the means only describe until then."
        )
    if any(one.skewed for one in every):
        notes.append("Some differences are skewed for sure; with few seeds such intervals are too short.")
    if any(one.constant for one in every):
        notes.append("A difference that is equal on all seeds has no spread to judge by, and stays open.")
    return notes


def _csv(found: Attribution) -> str:
    columns = ["path", "n", *(f"{name}_{end}" for name in ("shapley", "left_out") for end in _ENDS)]
    rows = [
        [one.path, one.shapley.difference.n, *_numbers(one.shapley), *_numbers(one.left_out)]
        for one in found.paths
    ]
    return csv_table(columns, rows)


_ENDS = ("mean", "low", "high", "p", "verdict")


def _numbers(judged: Judged) -> list[object]:
    at = shown(judged)
    return [at.mean, at.low, at.high, judged.p, judged.verdict.value]


def _picture(found: Attribution) -> Picture:
    """A row for each path: its Shapley value, and below it leave-one-out; hollow where nothing is decided."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.42 * len(found.paths)))
    axes = figure.subplots()
    axes.axvline(0, color=GREY, lw=0.8)
    margin, scale = found.looks.margin, found.comparison.metric.scale
    if margin is not None:
        axes.axvspan(-scale * margin, scale * margin, color=GREY, alpha=0.12, lw=0)
    names = ("Shapley value", "leave-one-out")
    tones = dict(zip(names, colours(2), strict=True))
    for row, one in enumerate(found.paths):
        for offset, name, judged in _marks(one):
            at, place = shown(judged), row + offset
            if not math.isnan(at.low):
                axes.plot([scale * at.low, scale * at.high], [place] * 2, color=tones[name], lw=1.8)
            filled = tones[name] if judged.verdict.decided else "white"
            axes.plot([scale * at.mean], [place], "o", color=tones[name], mfc=filled, markersize=5.5)
    name_rows(axes, [wrapped(one.path, 30) for one in found.paths])
    unit = ", points" if found.comparison.metric.rate else ""
    axes.set_xlabel(f"Difference in test {found.comparison.metric.title}{unit}")
    legend_below(figure, [Line2D([], [], color=tones[name], marker="o", label=name) for name in names])
    caption = (
        f"Means over {counted(len(found.values), 'seed')}. Bars: intervals that carry the verdicts; those of "
        "one colour hold together at 95 %. Filled: decided; hollow: open or no verdict."
        f"{' Grey: the margin.' if margin is not None else ''}"
    )
    return render(figure, "attribution", "What each path is worth", caption)


def _marks(one: PathWorth) -> list[tuple[float, str, Judged]]:
    return [(-0.14, "Shapley value", one.shapley), (0.14, "leave-one-out", one.left_out)]

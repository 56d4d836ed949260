"""The figures of a judgement: differences with their bounds, and every path's share over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.judgement import MARGIN, VERDICTS, Difference, Judgement
from analysis.judgement_report import points, sets
from analysis.path_shares import OFF, QUARTER, shares_by_epoch
from analysis.strategies import Strategy
from ray_kd.analysis.comparison import Metric
from ray_kd.analysis.plot_style import (
    GREY,
    OKABE_ITO,
    STYLES,
    WIDTH,
    Picture,
    attempt,
    colours,
    legend_below,
    name_rows,
    render,
    right_axis,
    style,
    words,
    wrapped,
)
from ray_kd.analysis.records import Records

LOOK = {
    "non-inferior": (OKABE_ITO[2], "o", True),
    "inconclusive": (OKABE_ITO[0], "o", False),
    "inferior": (OKABE_ITO[1], "s", True),
    "no verdict": (GREY, "x", True),
}
"""Colour, marker and filling of each verdict, which differ without the colour, too."""


def judgement_pictures(judgement: Judgement, records: Records) -> list[Picture]:
    """The figures whose data the judgement has: differences, costs of harmful paths, shares."""
    with style():
        found = [
            attempt("difference", lambda: _contests(judgement)),
            attempt("cost", lambda: _costs(judgement)),
            attempt("shares", lambda: _shares(judgement, records)),
        ]
    return [picture for picture in found if picture is not None]


def _contests(judgement: Judgement) -> Picture | None:
    titles = _titles([contest.strategy for contest in judgement.contests])
    rows = [
        (titles[contest.strategy.cell], contest.difference, contest.comparator.name)
        for contest in judgement.contests
    ]
    if not rows:
        return None
    figure = _forest(
        rows, f"Test {_metric(judgement)}, {judgement.strategy} minus comparator (points)", "comparator"
    )
    caption = (
        f"Test {_metric(judgement)} of {judgement.strategy} minus that of the strategy which is best on "
        "validation (named at the right), on the same seeds: mean, and the interval that carries the "
        "verdict. Dotted line: the margin of 1 point. Non-inferior: the whole bar lies at its right."
    )
    return render(figure, "difference", f"Is {judgement.strategy} worse than the best of the others", caption)


def _costs(judgement: Judgement) -> Picture | None:
    shown = [cost for cost in judgement.costs if " [" not in cost.strategy.name]
    if not shown:
        return None
    places = list(dict.fromkeys((cost.strategy.setting, sets(cost.strategy)[1:]) for cost in shown))
    ordered = sorted(
        shown,
        key=lambda cost: (
            places.index((cost.strategy.setting, sets(cost.strategy)[1:])),
            cost.strategy.name != judgement.strategy,
        ),
    )
    titles = _titles([cost.strategy for cost in ordered])
    rows, seen = [], set()
    for cost in ordered:
        title = titles[cost.strategy.cell]
        rows.append((title if title not in seen else "", cost.difference, cost.strategy.name))
        seen.add(title)
    figure = _forest(
        rows, f"Test {_metric(judgement)}, with minus without the harmful paths (points)", "strategy"
    )
    caption = (
        f"What harmful paths cost each strategy (named at the right): test {_metric(judgement)} with them "
        "minus without, on the same seeds: mean, and the interval that carries the verdict. Dotted line: 1 "
        "point lost."
    )
    return render(figure, "cost", "What a harmful path costs", caption)


def _forest(rows: Sequence[tuple[str, Difference, str]], label: str, right: str) -> Figure:
    """A row for each difference: a title at the left, mean with bounds, a strategy's name at the right."""
    titles = [wrapped(title, 40) for title, _, _ in rows]
    heights = [max(1.0, 0.62 * (title.count("\n") + 1)) for title in titles]
    figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * sum(heights)))
    axes = figure.subplots()
    places = np.cumsum(heights) - np.array(heights) / 2
    for place, (title, difference, _) in zip(places, rows, strict=True):
        colour, marker, filled = LOOK[difference.verdict]
        bounds = difference.bounds
        if math.isfinite(bounds.low):
            axes.plot([100 * bounds.low, 100 * bounds.high], [place, place], color=colour, lw=1.8, zorder=3)
        face = colour if filled else "white"
        axes.plot([100 * bounds.mean], [place], marker, color=colour, markerfacecolor=face, zorder=4)
        if title and place > places[0]:
            edge = place - heights[list(places).index(place)] / 2
            axes.axhline(edge, color="#E4E4E4", lw=0.6, zorder=0)
    axes.axvline(0, color=GREY, lw=0.9, zorder=1)
    axes.axvline(-100 * MARGIN, color=GREY, lw=1.2, linestyle=STYLES[2], zorder=1)
    name_rows(axes, titles, places, bottom=sum(heights))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)
    _right(axes, places, rows, right)
    used = [verdict for verdict in VERDICTS if any(row[1].verdict == verdict for row in rows)]
    legend_below(figure, [_handle(verdict) for verdict in used])
    return figure


def _right(axes: Axes, places: np.ndarray, rows: Sequence[tuple[str, Difference, str]], what: str) -> None:
    texts = [f"{points(row[1].bounds.mean)}  {wrapped(words(row[2]), 30)}" for row in rows]
    right_axis(axes, places, texts, f"mean  {what}")


def _handle(verdict: str) -> Line2D:
    colour, marker, filled = LOOK[verdict]
    face = colour if filled else "white"
    return Line2D([], [], marker=marker, color=colour, markerfacecolor=face, lw=1.8, label=verdict)


def _metric(judgement: Judgement) -> str:
    return Metric(judgement.metric).title


def _titles(strategies: Sequence[Strategy]) -> dict[str, str]:
    """A title for each strategy's paths, by its cell; with the setting where there are several settings."""
    several = len({strategy.setting for strategy in strategies}) > 1
    titles = {}
    for strategy in strategies:
        setting, clean, harmful = (words(text) for text in sets(strategy))
        title = clean + (f", with {harmful}" if strategy.harmful else "")
        titles[strategy.cell] = f"{setting}: {title}" if several else title
    return titles


def _shares(judgement: Judgement, records: Records) -> Picture | None:
    """Share of every path over the epochs, a panel for each set of paths."""
    strategies = list({check.strategy.cell: check.strategy for check in judgement.checks}.values())
    frames = [(strategy, shares_by_epoch(strategy, records.whole_paths)) for strategy in strategies]
    frames = [(strategy, frame) for strategy, frame in frames if len(frame)]
    if not frames:
        return None
    columns = min(2, len(frames))
    lines = math.ceil(len(frames) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.72 * WIDTH, 0.25 + 2.3 * lines))
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    titles = _titles([strategy for strategy, _ in frames])
    labels = sorted({label for strategy, _ in frames for label in strategy.clean | strategy.harmful})
    colour = dict(zip(labels, colours(len(labels)), strict=True))
    for axes, (strategy, frame) in zip(panels, frames, strict=False):
        for path, rows in frame.groupby("path", sort=True):
            spread = rows.groupby("epoch")["share"]
            mean, low, high = spread.mean(), spread.min(), spread.max()
            dash = STYLES[1] if path in strategy.harmful else STYLES[0]
            axes.fill_between(mean.index, low, high, color=colour[str(path)], alpha=0.12, linewidth=0)
            axes.plot(mean.index, mean, color=colour[str(path)], linestyle=dash)
        axes.axvline(QUARTER * strategy.epochs, color=GREY, lw=0.8)
        axes.axhline(OFF, color=GREY, lw=1.0, linestyle=STYLES[2])
        axes.set_title(wrapped(titles[strategy.cell], 46), loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, 1)
    for axes in panels[len(frames) :]:
        axes.set_visible(False)
    for index, axes in enumerate(panels[: len(frames)]):
        axes.set_xlabel("Epoch" if index + columns >= len(frames) else "")
        axes.set_ylabel("Share of the update" if index % columns == 0 else "")
    harmful = {label for strategy, _ in frames for label in strategy.harmful}
    handles = []
    for label in labels:
        dash = STYLES[1] if label in harmful else STYLES[0]
        handles.append(Line2D([], [], color=colour[label], linestyle=dash, label=words(label)))  # type: ignore[arg-type]
    legend_below(figure, handles)
    caption = (
        f"Share w‖g‖ of each path under {judgement.strategy}, of the sum over all paths: line, mean over "
        "seeds; band, least to largest seed. Dashed: harmful on purpose. Vertical line: a quarter of the "
        "training, from where shares are judged; dotted line: the share that a harmful path must stay below "
        f"({OFF:.0%})."
    )
    return render(figure, "shares", f"Which paths {judgement.strategy} follows", caption)

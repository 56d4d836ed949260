"""The comparison as a dot plot: one row for each strategy."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.headline import number, p_value
from ray_kd.analysis.plot_style import (
    GREY,
    OKABE_ITO,
    WIDTH,
    Picture,
    arrow_beyond,
    legend_below,
    name_rows,
    render,
    right_axis,
    wrapped,
)

FIGURE_SPACE = "\N{FIGURE SPACE}"
"""As wide as a digit: numbers of different length are aligned with it."""
FOCUS = 3.0
"""The worst strategies are drawn as arrows where that enlarges the others by at least this factor."""
BETTER, WORSE, UNDECIDED = OKABE_ITO[2], OKABE_ITO[1], OKABE_ITO[0]


def comparison_picture(comparison: Comparison) -> Picture | None:
    """Mean and 95 % interval of each strategy, its seeds, and the baseline's mean as a line.

    None while no trial has finished.
    """
    if comparison.best is None:
        return None
    cells, metric = comparison.cells, comparison.metric
    figure = Figure(figsize=(WIDTH, 0.65 + 0.29 * len(cells)))
    axes = figure.subplots()
    away = off_scale(comparison)
    for row, cell in enumerate(cells):
        if cell.name not in away:
            _draw_cell(axes, row, cell, comparison)
    axes.margins(x=0.04)
    if away:
        axes.set_xlim(axes.get_xlim())  # keep the limits, whatever is drawn next
        for row, cell in enumerate(cells):
            if cell.name in away:
                _point_at(axes, row, cell, comparison)
    if comparison.baseline is not None:
        mean = comparison.baseline.best.mean * metric.scale
        axes.axvline(mean, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    name_rows(axes, [_name(cell) for cell in cells])
    axes.tick_params(axis="y", pad=8 if away else 3.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    unit = " (%)" if metric.rate else ""
    axes.set_xlabel(f"Test {metric.title}{' accuracy' if metric.name.startswith('top') else ''}{unit}")
    _differences(axes, comparison)
    legend_below(figure, _legend(comparison), most=3)
    return render(figure, "comparison", "Which strategy makes the student best", _caption(comparison))


def off_scale(comparison: Comparison) -> frozenset[str]:
    """The strategies that are so much worse than the rest that a common scale would hide the differences.

    As few as possible, at most half of all, and never the baseline or one better than it.
    """
    ranked = sorted((cell for cell in comparison.cells if cell.n), key=lambda cell: cell.best.mean)
    if comparison.metric.mode == "min":
        ranked.reverse()
    names = [cell.name for cell in ranked]
    most = names.index(comparison.plan.baseline) if comparison.plan.baseline in names else len(names)
    for count in range(1, min(most, len(names) // 2) + 1):
        if _extent(ranked) >= FOCUS * _extent(ranked[count:]) > 0:
            return frozenset(names[:count])
    return frozenset()


def _extent(cells: list[Cell]) -> float:
    """The length of the axis that shows these cells' intervals and seeds."""
    shown = [value for cell in cells for value in (cell.best.low, cell.best.high, *cell.seeds.values())]
    shown = [value for value in shown if not math.isnan(value)]
    return max(shown) - min(shown)


def _point_at(axes: Axes, row: int, cell: Cell, comparison: Comparison) -> None:
    """An arrow at the edge beyond which the strategy lies, with its mean as text."""
    left = comparison.metric.mode == "max"
    spread = cell.best.half_width
    text = number(comparison, cell.best.mean)
    text += "" if math.isnan(spread) else f" ± {number(comparison, spread)}"
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    edge = (axes.get_xlim()[0 if left else 1], row)
    look = (_colour(cell, comparison), 6.5, 9)
    arrow_beyond(axes, edge, left, f"{text}, off the scale", look, bbox=behind)


def _draw_cell(axes: Axes, row: int, cell: Cell, comparison: Comparison) -> None:
    scale, colour = comparison.metric.scale, _colour(cell, comparison)
    seeds = [value * scale for value in cell.seeds.values()]
    below = [row + 0.26] * len(seeds)  # beside the bar, which would hide them
    axes.plot(seeds, below, "o", color=colour, markersize=3.6, alpha=0.45, markeredgewidth=0, zorder=2)
    if not cell.n:
        return
    low, mean, high = (scale * value for value in (cell.best.low, cell.best.mean, cell.best.high))
    if not math.isnan(low):
        axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    decided = cell.versus is not None and cell.versus.significant
    face = colour if decided or comparison.is_reference(cell) else "white"
    axes.plot(
        [mean], [row], "o", color=colour, markerfacecolor=face, markersize=6.5, markeredgewidth=1.5, zorder=4
    )


def _colour(cell: Cell, comparison: Comparison) -> str:
    if comparison.is_reference(cell):
        return GREY
    if cell.versus is None or not cell.versus.significant:
        return UNDECIDED
    return BETTER if comparison.metric.better(cell.versus.difference.mean, 0.0) else WORSE


def _name(cell: Cell) -> str:
    return wrapped(cell.name if cell.n == cell.planned else f"{cell.name} ({cell.n} of {cell.planned})", 34)


def _differences(axes: Axes, comparison: Comparison) -> None:
    """Difference and corrected p of each row, in a column at the right of the axes."""
    if comparison.baseline is None:
        return
    shown = [_difference(comparison, cell) for cell in comparison.cells]
    widest = max(len(difference) for difference, _ in shown)
    labels = [f"{difference.rjust(widest, FIGURE_SPACE)}{p}" for difference, p in shown]
    labels = [
        "baseline" if comparison.is_reference(cell) else label
        for cell, label in zip(comparison.cells, labels, strict=True)
    ]
    unit = ", points" if comparison.metric.rate else ""
    right_axis(axes, range(len(labels)), labels, f"difference{unit} (Holm p)")


def _difference(comparison: Comparison, cell: Cell) -> tuple[str, str]:
    """The difference to the baseline and its p, as printed; empty where there is none."""
    versus = cell.versus
    if versus is None or math.isnan(versus.difference.mean):
        return "", ""
    difference = number(comparison, versus.difference.mean, sign=True)
    return difference, "" if math.isnan(versus.holm) else f"  ({p_value(versus.holm)})"


def _legend(comparison: Comparison) -> list[Line2D]:
    def dot(colour: str, filled: bool, label: str, size: float = 6.5) -> Line2D:
        face = colour if filled else "white"
        return Line2D(
            [], [], marker="o", color=colour, markerfacecolor=face, markersize=size, lw=1.8, label=label
        )

    seed = Line2D(
        [], [], marker="o", color=GREY, alpha=0.4, markersize=4, markeredgewidth=0, lw=0, label="one seed"
    )
    if comparison.baseline is None:
        return [dot(UNDECIDED, False, "mean, 95 % interval"), seed]
    used = {_colour(cell, comparison) for cell in comparison.cells if cell.n}
    untested = [cell for cell in comparison.cells if cell.n and cell.versus and math.isnan(cell.versus.p)]
    open_dot = "no significant difference" + (", or not tested" if untested else "")
    kinds = [
        (BETTER, True, "significantly better"),
        (WORSE, True, "significantly worse"),
        (UNDECIDED, False, open_dot if comparison.tests else "not tested"),
    ]
    line = Line2D([], [], color=GREY, lw=1.0, linestyle=(0, (4, 2)), label="mean of the baseline")
    return [*(dot(*kind) for kind in kinds if kind[0] in used), seed, line]


def _caption(comparison: Comparison) -> str:
    text = (
        f"Test {comparison.metric.title} of the weights that were best on validation: mean (dot), 95 % "
        "t-interval over seeds (bar), single seeds (faint dots)."
    )
    if off_scale(comparison):
        text += " Arrows: mean ± half-width of strategies too far off to be drawn to scale."
    if comparison.baseline is None:
        return text
    return (
        f"{text} Dashed line: mean of “{comparison.baseline.name}”. At the right: difference to it on the "
        "same seeds and p of the paired t-test, Holm-corrected; filled dots have p < 0.05. Bars of two rows "
        "may overlap although their paired difference is significant."
    )

"""The gains of all strategies, a panel for each task, as a share of the way from student alone to teacher."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.across import Across, Gap, Standing
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
from ray_kd.statistics.bootstrap import Ratio

MARKERS = "osD^vP"
"""Panels differ in colour and in marker."""
FARTHEST = 1.5
"""A gain of more than this many gaps is drawn as an arrow with its value."""


def across_picture(across: Across) -> Picture | None:
    """Gain and bootstrap interval of each strategy in each task, and the mean ranks; None without a gap."""
    strategies = [standing for standing in across.standings if standing.name != across.baseline]
    if not strategies or all(gap.trouble for gap in across.gaps):
        return None
    figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(strategies)))
    panels = figure.subplots(1, len(across.gaps), sharey=True, squeeze=False)[0]
    for index, (gap, axes) in enumerate(zip(across.gaps, panels, strict=True)):
        look = (OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index % len(MARKERS)])
        name_rows(axes, [wrapped(standing.name, 24) for standing in strategies])
        _panel(axes, gap, strategies, look)
    panels[len(panels) // 2].set_xlabel("Gain, % of the gap between student alone and teacher")
    ranks = ["" if math.isnan(one.mean_rank) else f"{one.mean_rank:.1f}" for one in strategies]
    right_axis(panels[-1], range(len(strategies)), ranks, "rank")
    line = Line2D([], [], color=GREY, lw=1.0, linestyle=(0, (4, 2)), label=str(across.baseline))
    dot = Line2D(
        [], [], marker="o", color=GREY, lw=1.8, markersize=5.5, label="gain, 95 % bootstrap interval"
    )
    teacher = Line2D([], [], color=GREY, lw=1.0, linestyle=":", label="teacher")
    legend_below(figure, [dot], [line], [teacher])
    return render(figure, "across", "How far strategies go in each task", _caption(across))


def _panel(axes: Axes, gap: Gap, strategies: list[Standing], look: tuple[str, str]) -> None:
    axes.set_title(gap.task)
    if gap.trouble:
        axes.set_xticks([])
        text = wrapped(f"undefined: {gap.trouble}", 24)
        axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=GREY)
        return
    axes.axvline(0, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    for row, standing in enumerate(strategies):
        gain = standing.gains.get(gap.task)
        if gain is not None:
            _draw(axes, row, gain, look)
    axes.margins(x=0.08)
    low, high = axes.get_xlim()
    if low < 100 < high or 100 - high < 0.35 * (high - low):
        axes.axvline(100, color=GREY, linewidth=1.0, linestyle=":", zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _draw(axes: Axes, row: int, gain: Ratio, look: tuple[str, str]) -> None:
    colour, marker = look
    edge = 100 * FARTHEST
    value, low, high = (100 * part for part in (gain.value, gain.low, gain.high))
    if abs(value) > edge:
        at = math.copysign(edge, value)
        text = f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
        arrow_beyond(axes, (at, row), value < 0, text, (colour, 6, 8))
        return
    if not math.isnan(low):
        ends = [max(low, -edge), min(high, edge)]
        axes.plot(ends, [row, row], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    axes.plot([value], [row], marker, color=colour, markersize=5.5, zorder=4)


def _caption(across: Across) -> str:
    return (
        f"Test metric of each strategy, from “{across.baseline}” (0, dashed) to the teacher (100, dotted), a "
        "ratio of means over common seeds; bars are 95 % bootstrap percentile intervals over seeds. Arrows "
        f"with a number stand for gains beyond ±{100 * FARTHEST:.0f} %. At the right: mean rank over tasks "
        f"among {across.ranked} strategies."
    )

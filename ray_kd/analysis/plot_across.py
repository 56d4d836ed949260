"""The gains of all strategies, a panel for each task, as a share of the way from student alone to teacher."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.across import Across, Gap, Standing
from ray_kd.analysis.plot_comparison import UNSEEN, Look, look_of, verdict_handles
from ray_kd.analysis.plot_style import (
    GREY,
    WIDTH,
    Picture,
    arrow_beyond,
    legend_below,
    name_rows,
    render,
    right_axis,
    wrapped,
)
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Verdict

FARTHEST = 1.5
"""A gain of more than this many gaps is drawn as an arrow with its value."""


def across_picture(across: Across) -> Picture | None:
    """The gain of each strategy in each task, with the interval of its verdict; None without a gap."""
    strategies = [standing for standing in across.standings if standing.name != across.baseline]
    if not strategies or all(gap.trouble for gap in across.gaps):
        return None
    figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(strategies)))
    panels = figure.subplots(1, len(across.gaps), sharey=True, squeeze=False)[0]
    for gap, axes in zip(across.gaps, panels, strict=True):
        name_rows(axes, [wrapped(standing.name, 24) for standing in strategies])
        _panel(axes, gap, strategies)
    panels[len(panels) // 2].set_xlabel("Gain, % of the gap between student alone and teacher")
    counts = [f"{one.tasks_of(Verdict.BETTER)} / {one.tasks_of(Verdict.WORSE)}" for one in strategies]
    right_axis(panels[-1], range(len(strategies)), counts, "better / worse")
    line = Line2D([], [], color=GREY, lw=1.0, linestyle=(0, (4, 2)), label=str(across.baseline))
    teacher = Line2D([], [], color=GREY, lw=1.0, linestyle=":", label="teacher")
    drawn = [_look(one, gap) for one in strategies for gap in across.gaps if gap.task in one.gains]
    legend_below(figure, [*verdict_handles(drawn), line, teacher])
    return render(figure, "across", "How far strategies go in each task", _caption(across))


def _look(standing: Standing, gap: Gap) -> Look:
    versus = standing.cells[gap.task].versus
    return UNSEEN if versus is None else look_of(versus)


def _panel(axes: Axes, gap: Gap, strategies: list[Standing]) -> None:
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
            _draw(axes, row, gain, _look(standing, gap))
    axes.margins(x=0.08)
    low, high = axes.get_xlim()
    if low < 100 < high or 100 - high < 0.35 * (high - low):
        axes.axvline(100, color=GREY, linewidth=1.0, linestyle=":", zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _draw(axes: Axes, row: int, gain: Interval, look: Look) -> None:
    edge = 100 * FARTHEST
    value, low, high = (100 * part for part in (gain.mean, gain.low, gain.high))
    if abs(value) > edge:
        at = math.copysign(edge, value)
        text = f"{value:.0f}".replace("-", "\N{MINUS SIGN}")
        arrow_beyond(axes, (at, row), value < 0, text, (look.colour, 6, 8))
        return
    if not math.isnan(low):
        ends = [max(low, -edge), min(high, edge)]
        axes.plot(ends, [row, row], color=look.colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    look.draw(axes, value, row)


def _caption(across: Across) -> str:
    return (
        f"Test metric of each strategy, from “{across.baseline}” (0, dashed) to the teacher (100, dotted): "
        "ratios of means over common seeds, with the interval that carries the verdict in the task. Arrows "
        f"with a number stand for gains beyond ±{100 * FARTHEST:.0f} %. At the right: in how many tasks the "
        "strategy is better and worse."
    )

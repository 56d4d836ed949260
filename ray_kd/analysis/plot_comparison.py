"""The comparison as a dot plot: one row for each strategy, with the interval that carries its verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.headline import margin_text, number, with_bounds
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
from ray_kd.analysis.verdicts import Versus
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Verdict

MOST = 30
"""Strategies in the figure, beside the references; of more, those that ``Comparison.foremost`` chooses."""
FOCUS = 3.0
"""The worst strategies are drawn as arrows where that enlarges the others by at least this factor."""
BAND = "#ECECEC"


@dataclass(frozen=True)
class Look:
    """How a verdict is drawn: by colour and by shape, so that either of them is enough."""

    colour: str
    marker: str
    filled: bool = True
    size: float = 6.5

    def draw(self, axes: Axes, x: float, y: float) -> None:
        """The marker at a place."""
        axes.plot([x], [y], zorder=4, **self.style)  # type: ignore[arg-type]

    @property
    def style(self) -> dict[str, object]:
        """Of a line or of its legend."""
        face = self.colour if self.filled else "white"
        return {
            "marker": self.marker,
            "color": self.colour,
            "markerfacecolor": face,
            "markersize": self.size,
            "markeredgewidth": 1.4,
        }


LOOKS = {
    Verdict.BETTER: Look(OKABE_ITO[2], "^", size=7.5),
    Verdict.WORSE: Look(OKABE_ITO[1], "v", size=7.5),
    Verdict.SAME: Look(OKABE_ITO[3], "s"),
    Verdict.OPEN: Look(OKABE_ITO[0], "o", filled=False),
    Verdict.NONE: Look(GREY, "x"),
}
UNSEEN = Look(GREY, "o", filled=False)
"""Before the first look."""
REFERENCE = Look(GREY, "D")


def look_of(versus: Versus) -> Look:
    """How a strategy's verdict is drawn."""
    unseen = versus.verdict is Verdict.OPEN and not versus.judged.look
    return UNSEEN if unseen else LOOKS[versus.verdict]


@dataclass(frozen=True)
class _Row:
    """What is drawn of one strategy, in the metric's own unit."""

    cell: Cell
    seeds: tuple[float, ...]
    shown: Interval
    look: Look
    right: str = ""

    @property
    def values(self) -> list[float]:
        """Everything that the axis has to show."""
        every = (self.shown.low, self.shown.mean, self.shown.high, *self.seeds)
        return [value for value in every if not math.isnan(value)]


def comparison_picture(comparison: Comparison) -> Picture | None:
    """The difference of each strategy to its reference with the interval of its verdict, and single seeds.

    Without a baseline: the mean of each with its own interval. None while no trial has finished.
    """
    if not comparison.started:
        return None
    rows = _rows(comparison)
    figure = Figure(figsize=(WIDTH, 0.65 + 0.29 * len(rows)))
    axes = figure.subplots()
    away = off_scale(comparison)
    for place, row in enumerate(rows):
        if row.cell.name not in away:
            _draw(axes, place, row, comparison.metric.scale)
    axes.margins(x=0.04)
    if away:
        axes.set_xlim(axes.get_xlim())  # keep the limits, whatever is drawn next
        for place, row in enumerate(rows):
            if row.cell.name in away:
                _point_at(axes, place, row, comparison)
    margins = sorted({m * comparison.metric.scale for m in _margins(comparison)})
    for margin in margins:
        axes.axvspan(-margin, margin, color=BAND, zorder=0, linewidth=0)
    if comparison.baseline is not None:
        axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    name_rows(axes, [_name(row.cell) for row in rows])
    axes.tick_params(axis="y", pad=8 if away else 3.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_xlabel(_label(comparison))
    if comparison.baseline is not None:
        right_axis(
            axes,
            range(len(rows)),
            [row.right for row in rows],
            f"{'points, ' if comparison.metric.rate else ''}verdict (seeds)",
        )
    handles = _legend(comparison, rows)
    handles += [_band(comparison)] if margins else []
    legend_below(figure, handles, most=4)
    return render(figure, "comparison", _title(comparison), _caption(comparison, bool(away)))


def _rows(comparison: Comparison) -> list[_Row]:
    """A row for each drawn strategy, in the plan's order."""
    cells = comparison.foremost(MOST)
    if comparison.baseline is None:
        return [
            _Row(cell, tuple(cell.seeds.values()), cell.best, Look(OKABE_ITO[0], "o", filled=False))
            for cell in cells
        ]
    return [_beside(comparison, cell) for cell in cells]


def _beside(comparison: Comparison, cell: Cell) -> _Row:
    """A strategy beside its reference; a reference lies at 0."""
    versus, figures = cell.versus, {other.name: other.seeds for other in comparison.cells}
    if versus is None:
        at = Interval(0.0, math.nan, math.nan, cell.n) if cell.n else cell.best
        unit = " %" if comparison.metric.rate else ""
        return _Row(cell, (), at, REFERENCE, f"baseline, {number(comparison, cell.best.mean)}{unit}")
    reference, judged = figures.get(versus.reference, {}), versus.judged
    common = versus.seeds(cell.seeds, reference)
    differences = tuple(cell.seeds[seed] - reference[seed] for seed in common)
    mean = number(comparison, versus.difference.mean, sign=True)
    said = f"{mean}  {versus.verdict}{f' ({judged.look})' if judged.look else ''}"
    return _Row(cell, differences, versus.difference, look_of(versus), said)


def off_scale(comparison: Comparison) -> frozenset[str]:
    """The strategies that are so much worse than the rest that a common scale would hide the differences.

    As few as possible, at most half of all, and never the baseline or one with a higher mean.
    """
    sign = 1.0 if comparison.metric.mode == "max" else -1.0
    ranked = sorted((row for row in _rows(comparison) if row.values), key=lambda row: sign * row.shown.mean)
    names = [row.cell.name for row in ranked]
    most = names.index(comparison.plan.baseline) if comparison.plan.baseline in names else len(names)
    for count in range(1, min(most, len(names) // 2) + 1):
        if _extent(ranked) >= FOCUS * _extent(ranked[count:]) > 0:
            return frozenset(names[:count])
    return frozenset()


def _extent(rows: Sequence[_Row]) -> float:
    """The length of the axis that shows these rows."""
    shown = [value for row in rows for value in row.values]
    return max(shown) - min(shown)


def _point_at(axes: Axes, place: int, row: _Row, comparison: Comparison) -> None:
    """An arrow at the edge beyond which the strategy lies, with its value as text."""
    left = comparison.metric.mode == "max"
    text = number(comparison, row.shown.mean)
    if comparison.baseline is not None:
        text = with_bounds(comparison, row.shown)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    edge = (axes.get_xlim()[0 if left else 1], place)
    arrow_beyond(axes, edge, left, f"{text}, off the scale", (row.look.colour, 6.5, 9), bbox=behind)


def _draw(axes: Axes, place: int, row: _Row, scale: float) -> None:
    colour = row.look.colour
    seeds = [value * scale for value in row.seeds]
    below = [place + 0.26] * len(seeds)  # beside the bar, which would hide them
    axes.plot(seeds, below, "o", color=colour, markersize=3.2, alpha=0.4, markeredgewidth=0, zorder=2)
    low, mean, high = (scale * value for value in (row.shown.low, row.shown.mean, row.shown.high))
    if not math.isnan(low):
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt", zorder=3)
    if not math.isnan(mean):
        row.look.draw(axes, mean, place)


def _name(cell: Cell) -> str:
    lost = cell.versus is not None and cell.versus.verdict is Verdict.NONE
    return wrapped(f"{cell.name} ({cell.n} of {cell.needed})" if lost else cell.name, 34)


def _margins(comparison: Comparison) -> set[float]:
    return {
        cell.versus.looks.margin for cell in comparison.compared if cell.versus and cell.versus.looks.margin
    }


def _title(comparison: Comparison) -> str:
    baseline = comparison.plan.baseline
    return f"Which strategies differ from “{baseline}”" if baseline else "The strategies"


def _label(comparison: Comparison) -> str:
    metric = comparison.metric
    text = f"Test {metric.title}{' accuracy' if metric.name.startswith('top') else ''}"
    if comparison.baseline is None:
        return text + (" (%)" if metric.rate else "")
    unit = " (points)" if metric.rate else ""
    return wrapped(f"{text}: difference to “{comparison.baseline.name}”{unit}", 84)


def _legend(comparison: Comparison, rows: Sequence[_Row]) -> list[Line2D]:
    seed = Line2D(
        [], [], marker="o", color=GREY, alpha=0.4, markersize=4, markeredgewidth=0, lw=0, label="one seed"
    )
    if comparison.baseline is None:
        return [_handle(rows[0].look, "mean, its own 95 % interval"), seed]
    return [*verdict_handles([row.look for row in rows]), seed]


def verdict_handles(drawn: Collection[Look]) -> list[Line2D]:
    """The legend's entries of the verdicts that are drawn."""
    words = [*((look, verdict.value) for verdict, look in LOOKS.items()), (UNSEEN, "before the first look")]
    return [_handle(look, label) for look, label in words if look in drawn]


def _handle(look: Look, label: str) -> Line2D:
    width = 0.0 if look in (UNSEEN, LOOKS[Verdict.NONE]) else 1.8
    return Line2D([], [], lw=width, label=label, **look.style)  # type: ignore[arg-type]


def _band(comparison: Comparison) -> Line2D:
    looks = (cell.versus.looks for cell in comparison.compared if cell.versus)
    sizes = dict.fromkeys(margin_text(comparison, one) for one in looks if one.margin)
    return Line2D([], [], color=BAND, lw=9, label=f"margin: ±{' and ±'.join(sizes)}")


def _caption(comparison: Comparison, away: bool) -> str:
    lead = f"Test {comparison.metric.title} of the weights that were best on validation"
    if comparison.baseline is None:
        text = f"{lead}: mean, its own 95 % t-interval over seeds (bar), single seeds (faint dots)."
    else:
        text = (
            f"{lead}: difference to “{comparison.baseline.name}” on the same seeds (dashed line: 0) with "
            "the interval that carries the verdict (bar), and single seeds (faint dots). At the right: "
            "verdict and seeds at which it fell. Without a verdict or a look there is no interval."
        )
    text = " ".join(filter(None, (text, comparison.left_out(MOST))))
    return text + (" Arrows: strategies too far off to be drawn to scale." if away else "")

"""Which source of chance matters most: the spread over seeds that redraw one source each, and all of them.

The design is that of Bouthillier et al. (MLSys 2021, arXiv 2103.03098): each source alone is redrawn around
a common centre, the draws of seed 0, and beside it all sources together. A fully crossed design would average
over other centres and separate interactions, at the product of the sources' numbers instead of their sum.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_kd.analysis.answer import Answer
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.headline import DASH, number, quoted
from ray_kd.analysis.plot_style import WIDTH, Picture, colours, legend_below, name_rows, render
from ray_kd.analysis.records import Records, by_seed
from ray_kd.analysis.table_text import answer_text, csv_table
from ray_kd.config.cells import VARY, strategy_name
from ray_kd.config.errors import UserError
from ray_kd.statistics.spread import Spread, spread


@dataclass(frozen=True)
class Component:
    """The spread of one figure over seeds that redraw the same sources."""

    of: str
    """A strategy, or ``B - A``: the difference of two on the same seeds."""
    source: str
    """The label on the axis ``vary``."""
    vary: tuple[str, ...]
    spread: Spread
    share: float = math.nan
    """Its variance over that of the cell that redraws most sources."""


@dataclass(frozen=True)
class Variance:
    """All components of one task."""

    comparison: Comparison
    components: tuple[Component, ...]

    def of(self, what: str) -> list[Component]:
        """The components of a strategy, or of a difference."""
        return [one for one in self.components if one.of == what]

    @property
    def whats(self) -> list[str]:
        """Strategies, then differences."""
        return list(dict.fromkeys(one.of for one in self.components))


def variance(records: Records, comparison: Comparison) -> Variance:
    """The components of a sweep with an axis ``vary``, whose labels each map to a ``vary`` of their own.

    Differences are those of the axis's other strategies to the first one.

    Raises:
        UserError: the sweep has no such axis.
    """
    plan = comparison.plan
    drawn = {cell: tuple(entry["vary"]) for entry in plan.chance for cell in entry["cells"]}
    trials = records.trials[(records.trials["phase"] == "compare") & records.trials["axes"].notna()]
    values: dict[str, dict[str, dict[int, float]]] = {}
    vary: dict[str, tuple[str, ...]] = {}
    for cell, group in trials.groupby("cell", sort=False):
        axes = json.loads(group["axes"].iloc[0])
        if VARY not in axes:
            continue
        label, finished = str(axes[VARY]), group[group["status"] == "finished"]
        strategy = strategy_name(str(cell), axes, VARY)
        vary[label] = drawn.get(str(cell), ())
        found = by_seed(finished, f"best_test_{comparison.metric.name}")
        values.setdefault("" if strategy == cell else strategy, {})[label] = found
    if not vary:
        raise UserError(
            f"only variance: sweep '{plan.name}' has no axis '{VARY}', whose labels say what seeds redraw; "
            "sweeps/variance_digits.yaml is an example."
        )
    first = next(iter(values))
    for other in [name for name in values if name != first]:
        values[f"{other} \N{MINUS SIGN} {first}"] = {
            label: {seed: found[seed] - base[seed] for seed in found.keys() & base.keys()}
            for label, found in values[other].items()
            if (base := values[first].get(label)) is not None
        }
    parts = [part for what, known in values.items() for part in _components(what, known, vary)]
    return Variance(comparison, tuple(parts))


def _components(
    what: str, known: dict[str, dict[int, float]], vary: dict[str, tuple[str, ...]]
) -> list[Component]:
    found = {label: spread(list(values.values())) for label, values in known.items()}
    whole = max(found, key=lambda label: len(vary[label]))
    everything = all(set(vary[label]) <= set(vary[whole]) for label in found) and len(vary[whole]) > 1
    total = found[whole].value ** 2 if everything else math.nan
    return [
        Component(what, label, vary[label], one, one.value**2 / total if total > 0 else math.nan)
        for label, one in found.items()
    ]


def findings(found: Variance) -> list[str]:
    """A sentence for each figure: the source with the largest spread, and which it is not told apart from."""
    lines = []
    for what in found.whats:
        single = [one for one in found.of(what) if len(one.vary) == 1 and not math.isnan(one.spread.value)]
        if len(single) < 2:
            continue
        single.sort(key=lambda one: -one.spread.value)
        top, others = single[0], single[1:]
        near = [one.source for one in others if not one.spread.high < top.spread.low and one.spread.value > 0]
        text = f"{what or 'All cells'}: “{top.source}” has the largest spread of the single sources"
        if math.isnan(top.spread.low):
            lines.append(f"{text}; fewer than five seeds allow no interval.")
        elif near:
            lines.append(f"{text}; its interval meets that of {quoted(near)}.")
        else:
            lines.append(f"{text}, and its interval lies above those of all others.")
    return lines


def variance_answer(found: Variance) -> Answer:
    """Sentences and table, the table as CSV, and the figure."""
    return Answer(_markdown(found), _csv(found), partial(_picture, found))


def _markdown(found: Variance) -> str:
    metric = found.comparison.metric
    deviation = f"standard deviation\n{metric.points}"
    headings = ["of", "redrawn", "seeds", deviation, "95 % interval", "share of variance"]
    rows = []
    for one in found.components:
        value, low, high = (number(found.comparison, figure) for figure in _figures(one.spread))
        share = DASH if math.isnan(one.share) else f"{100 * one.share:.0f} %"
        interval = DASH if math.isnan(one.spread.low) else f"{low} to {high}"
        rows.append([one.of or "all", one.source, str(one.spread.n), value, interval, share])
    notes = [
        f"Standard deviation of test {metric.title} over seeds that redraw what the second column says "
        "and share all else (Bouthillier et al., MLSys 2021); intervals by Bonett (2006), each on its own.",
        "share of variance: beside that of the row that redraws most. Shares need not add up to 100 %: "
        "sources interact, and each was redrawn around one draw of the others.",
    ]
    return answer_text(findings(found), headings, rows, notes)


def _csv(found: Variance) -> str:
    columns = ["of", "redrawn", "sources", "n", "spread", "low", "high", "share"]
    rows = [
        [one.of, one.source, " ".join(one.vary), one.spread.n, *_figures(one.spread), one.share]
        for one in found.components
    ]
    return csv_table(columns, rows)


def _picture(found: Variance) -> Picture:
    """A row for each source, with the spread of each strategy and difference."""
    sources, whats = list(dict.fromkeys(one.source for one in found.components)), found.whats
    figure = Figure(figsize=(WIDTH, 0.9 + 0.14 * len(sources) * (1 + len(whats))))
    axes = figure.subplots()
    metric, colour = found.comparison.metric, dict(zip(whats, colours(len(whats)), strict=True))
    for one in found.components:
        row = sources.index(one.source) + (whats.index(one.of) - (len(whats) - 1) / 2) * 0.6 / len(whats)
        if not math.isnan(one.spread.low):
            bounds = [metric.scale * one.spread.low, metric.scale * one.spread.high]
            axes.plot(bounds, [row, row], color=colour[one.of], lw=1.8)
        axes.plot([metric.scale * one.spread.value], [row], "o", color=colour[one.of], markersize=5.5)
    axes.set_xlim(left=0)
    name_rows(axes, sources)
    unit = ", points" if metric.rate else ""
    axes.set_xlabel(f"Standard deviation of test {metric.title} over seeds{unit}")
    legend = [Line2D([], [], color=colour[what], marker="o", label=what or "all") for what in whats]
    legend_below(figure, legend, most=3)
    caption = (
        "Spread over seeds that redraw the source on the left and share all else; bars: 95 % intervals "
        "(Bonett, 2006), each on its own."
    )
    return render(figure, "variance", "Which source of chance matters most", caption)


def _figures(one: Spread) -> tuple[float, float, float]:
    return one.value, one.low, one.high

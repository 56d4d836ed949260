"""Records of several draws of one sweep -> which strategies are better or worse in every draw.

    python analysis/draws.py results/draw_0 results/draw_1000 results/draw_2000 --out docs/results/demo

A draw is the same sweep with other seeds, another teacher, or on another processor; each lies in a storage
of its own. Prints each strategy's difference to the baseline in each draw, with the interval that carries
the draw's verdict. With --out it writes draws.md and draws.png too. A verdict stands only where every draw
has it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.script import run, script_parser
from ray_kd.analysis.comparison import Cell, Comparison, compare_cells
from ray_kd.analysis.comparison_table import DECIDED
from ray_kd.analysis.headline import DASH, number, with_bounds
from ray_kd.analysis.pipeline import only_sweep
from ray_kd.analysis.plot_comparison import UNSEEN, Look, look_of, verdict_handles
from ray_kd.analysis.plot_style import (
    GREY,
    WIDTH,
    Picture,
    arrow_beyond,
    legend_below,
    name_rows,
    render,
    style,
    wrapped,
)
from ray_kd.analysis.plots import write_pictures
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.config.errors import UserError
from ray_kd.config.names import markdown
from ray_kd.statistics.looks import Verdict

FOCUS = 12.0
"""A difference of more points than this lies off the scale of the figure."""
MARKERS = "osD^vPX<>*"


@dataclass(frozen=True)
class Draw:
    """One run of the sweep."""

    label: str
    comparison: Comparison
    machine: str
    """Device and PyTorch's version; several where trials differ."""


def read_draw(storage: str, sweep: str | None, label: str | None) -> Draw:
    """The comparison in one storage.

    Raises:
        UserError: no such storage or sweep, or it has no finished baseline.
    """
    root = Folder.open(storage)
    name = sweep or only_sweep(root)
    records = read_records(root, name)
    comparison = compare_cells(records)
    if comparison.baseline is None:
        raise UserError(f"{storage}: the baseline of sweep '{name}' has no finished trial to compare with.")
    finished = records.trials[records.trials["status"] == "finished"]
    machines = {f"{row.device_name}, torch {row.torch}" for row in finished.itertuples()}
    return Draw(label or Path(storage).name, comparison, "; ".join(sorted(machines)))


def verdict(draw: Draw, name: str) -> str:
    """The draw's verdict on a strategy; DASH where it compares none of that name."""
    cell = _cell(draw, name)
    return DASH if cell is None or cell.versus is None else cell.versus.verdict.value


def agreed(draws: list[Draw], name: str) -> str:
    """The verdict on a strategy that all draws share; open where they differ."""
    verdicts = {verdict(draw, name) for draw in draws}
    return verdicts.pop() if len(verdicts) == 1 else Verdict.OPEN.value


def draws_table(draws: list[Draw]) -> str:
    """The table of all draws and what must be known to read it."""
    first = draws[0].comparison
    names = [cell.name for cell in first.cells if cell.name != first.plan.baseline]
    unit, baseline = ", points" if first.metric.rate else "", markdown(str(first.plan.baseline))
    lines = [
        f"Difference to “{baseline}” in test {first.metric.title}{unit}, with the interval that carries "
        "the verdict: the intervals of all strategies at all looks of a draw hold together at 95 %.",
        "",
        _row(["strategy", *(markdown(draw.label) for draw in draws), "all draws"]),
        _row(["---", *["---:"] * len(draws), "---"]),
    ]
    for name in names:
        entries = [_difference(draw, name) for draw in draws]
        shared = agreed(draws, name)
        decided = shared in DECIDED
        lines.append(_row([markdown(name), *entries, f"**{shared}**" if decided else shared]))
    alone = [_mean(draw) for draw in draws]
    lines.append(_row([f"*{baseline}, test {first.metric.title}*", *alone, ""]))
    lines.append(_row(["*teacher*", *(_teacher(draw) for draw in draws), ""]))
    lines.append(_row(["*converged*", *(_converged(draw) for draw in draws), ""]))
    lines.append("")
    lines += [f"- {markdown(draw.label)}: {_seeds(draw)}; {draw.machine}." for draw in draws]
    return "\n".join([*lines, ""])


def _row(entries: list[str]) -> str:
    return "| " + " | ".join(entries) + " |"


def _cell(draw: Draw, name: str) -> Cell | None:
    return next((cell for cell in draw.comparison.cells if cell.name == name), None)


def _difference(draw: Draw, name: str) -> str:
    cell = _cell(draw, name)
    if cell is None or cell.versus is None:
        return DASH
    difference, found = cell.versus.difference, verdict(draw, name)
    text = with_bounds(draw.comparison, difference)
    return f"{text}, {f'**{found}**' if found in DECIDED else found}"


def _mean(draw: Draw) -> str:
    cell = draw.comparison.baseline
    assert cell is not None  # read_draw requires it
    return f"{number(draw.comparison, cell.best.mean)} ± {number(draw.comparison, cell.best.half_width)}"


def _teacher(draw: Draw) -> str:
    """Its test metric; of a teacher for each seed the mean and the range."""
    values = [teacher.value for teacher in draw.comparison.teachers]
    if not values:
        return DASH
    mean, least, most = (
        number(draw.comparison, value) for value in (sum(values) / len(values), min(values), max(values))
    )
    return mean if len(values) == 1 else f"{mean} ({least} to {most})"


def _converged(draw: Draw) -> str:
    return ", ".join(doubling.converged for doubling in draw.comparison.doublings) or "not checked"


def _seeds(draw: Draw) -> str:
    cell = draw.comparison.baseline
    seeds = sorted(cell.seeds) if cell is not None else []
    consecutive = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"seeds {seeds[0]} to {seeds[-1]}" if consecutive else f"seeds {', '.join(map(str, seeds))}"


def picture(draws: list[Draw]) -> Picture:
    """A row for each strategy with an interval for each draw; variation between draws is chance."""
    first = draws[0].comparison
    names = [cell.name for cell in first.cells if cell.name != first.plan.baseline]
    figure = Figure(figsize=(WIDTH, 0.6 + (0.14 + 0.1 * len(draws)) * len(names)))
    axes = figure.subplots()
    away = []
    for row, name in enumerate(names):
        for index, draw in enumerate(draws):
            cell, place = _cell(draw, name), row + (index - (len(draws) - 1) / 2) * 0.7 / len(draws)
            if cell is None or cell.versus is None:
                continue
            if first.metric.rate and abs(first.metric.scale * cell.versus.difference.mean) > FOCUS:
                away.append((place, draw, cell))
            else:
                _draw_difference(axes, place, draw, cell, MARKERS[index % len(MARKERS)])
    axes.set_xlim(axes.get_xlim())  # keep the limits, whatever is drawn next
    for place, draw, cell in away:
        _point_at(axes, place, draw, cell)
    axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    name_rows(axes, [wrapped(name, 34) for name in names])
    axes.tick_params(axis="y", pad=8 if away else 3.5)
    unit = " (points)" if first.metric.rate else ""
    axes.set_xlabel(f"Test {first.metric.title}: difference to “{first.plan.baseline}”{unit}")
    shown = [
        Line2D([], [], marker=MARKERS[index % len(MARKERS)], color=GREY, lw=1.4, ms=5, label=draw.label)
        for index, draw in enumerate(draws)
    ]
    looks = [_look(cell) for draw in draws for name in names if (cell := _cell(draw, name)) and cell.versus]
    colours = verdict_handles(looks)
    for handle in colours:
        handle.set(marker="none", linewidth=3)  # shapes tell the draws apart
    legend_below(figure, shown, colours, most=4)
    caption = (
        f"Difference to “{first.plan.baseline}” by strategy and draw, with the interval that carries its "
        "verdict. Colours: the verdict within a draw, hollow where it is open. Arrows point at differences "
        "off the scale."
    )
    return render(figure, "draws", "The same comparison in several draws", caption)


def _draw_difference(axes: Axes, place: float, draw: Draw, cell: Cell, marker: str) -> None:
    assert cell.versus is not None  # checked by the caller
    metric, difference, colour = draw.comparison.metric, cell.versus.difference, _look(cell).colour
    mean, low, high = (metric.scale * value for value in (difference.mean, difference.low, difference.high))
    axes.plot([low, high], [place, place], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=3)
    face = colour if _look(cell).filled else "white"
    axes.plot([mean], [place], marker, color=colour, markerfacecolor=face, ms=4.5, zorder=4)


def _point_at(axes: Axes, place: float, draw: Draw, cell: Cell) -> None:
    """An arrow at the edge beyond which the difference lies, with its value as text."""
    assert cell.versus is not None  # checked by the caller
    mean = cell.versus.difference.mean
    edge = (axes.get_xlim()[0 if mean < 0 else 1], place)
    text = number(draw.comparison, mean, sign=True)
    arrow_beyond(axes, edge, mean < 0, text, (_look(cell).colour, 5, 7), fontsize=7)


def _look(cell: Cell) -> Look:
    return UNSEEN if cell.versus is None else look_of(cell.versus)


def main() -> None:
    """Tabulate and draw the draws of one sweep."""
    parser = script_parser(__doc__)
    parser.add_argument("more", nargs="*", metavar="STORAGE", help="storages of the other draws")
    parser.add_argument(
        "--label", action="append", metavar="TEXT", help="a draw's name, in order; once for each"
    )
    arguments = parser.parse_args()
    storages = [arguments.storage, *arguments.more]
    labels = arguments.label or [None] * len(storages)
    if len(labels) != len(storages):
        raise UserError(
            f"--label: {len(labels)} given for {len(storages)} draws; expected one for each, or none."
        )
    draws = [
        read_draw(storage, arguments.sweep, label) for storage, label in zip(storages, labels, strict=True)
    ]
    text = draws_table(draws)
    print(text)
    if arguments.out:
        with style():
            pictures = [picture(draws)]
        print(Folder.open(arguments.out).write("draws.md", text))
        for path in write_pictures(pictures, arguments.out).values():
            print(path)


if __name__ == "__main__":
    run(main)

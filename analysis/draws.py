"""Records of several draws of one sweep -> in how many of them each strategy is better or worse.

    python analysis/draws.py results/draw_0 results/draw_1000 results/draw_2000 --out docs/results/demo

A draw is the same sweep with other seeds, or on another processor; each lies in a storage of its own. Prints
the verdicts that hold in at least nine tenths of the draws, how often each strategy has which verdict, and
its difference to the baseline in each draw. With --out it writes draws.md, draws.png and each draw's own
table (1.md, 2.md ... in the order of the draws) too. With --into README.md it puts what holds, and how often,
between two comments of that file.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.script import run, script_parser
from ray_kd.analysis.comparison import Cell, Comparison, compare_cells
from ray_kd.analysis.comparison_table import markdown as own_table
from ray_kd.analysis.headline import DASH, counted, joined, number
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
from ray_kd.analysis.records import only_sweep, read_records
from ray_kd.analysis.table_text import pipes
from ray_kd.config.errors import UserError
from ray_kd.config.names import markdown
from ray_kd.config.screen import say
from ray_kd.statistics.looks import Verdict

FOCUS = 12.0
"""A difference of more points than this lies off the scale of the figure."""
BEGIN, END = "<!-- written by analysis/draws.py -->", "<!-- until here -->"
"""What stands between these lines of a page is replaced."""
HOLDS = 0.9
"""A verdict holds if it is that of at least this share of the draws."""
SHOWN = (Verdict.BETTER, Verdict.SAME, Verdict.WORSE, Verdict.OPEN)
"""Verdicts that have a column where any draw has them."""


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


def verdict(draw: Draw, name: str) -> Verdict:
    """The draw's verdict on a strategy; none where it compares none of that name."""
    cell = _cell(draw, name)
    return Verdict.NONE if cell is None or cell.versus is None else cell.versus.verdict


def strategies(draws: list[Draw]) -> list[str]:
    """What the first draw compares with its baseline, in its order."""
    comparison = draws[0].comparison
    return [cell.name for cell in comparison.compared]


def what_holds(draws: list[Draw]) -> list[str]:
    """A sentence for each verdict and each number of draws that have it, if these are enough (``HOLDS``)."""
    baseline, names, sentences = draws[0].comparison.plan.baseline, strategies(draws), []
    counts = {name: Counter(verdict(draw, name) for draw in draws) for name in names}
    for found in (Verdict.BETTER, Verdict.SAME, Verdict.WORSE):
        for count in range(len(draws), 0, -1):
            having = [name for name in names if counts[name][found] == count]
            if having and count >= HOLDS * len(draws):
                said = f"**{found.value}**" + (" as" if found is Verdict.SAME else " than")
                sentences.append(
                    f"In {count} of {counted(len(draws), 'draw')} {said} the {markdown(str(baseline))}: "
                    f"{markdown(joined(having))}."
                )
    return sentences or [f"No verdict holds in {100 * HOLDS:.0f} % of the draws."]


def counts_table(draws: list[Draw]) -> list[str]:
    """How many draws have which verdict on each strategy, and the range of its mean differences."""
    first, names = draws[0].comparison, strategies(draws)
    counts = {name: Counter(verdict(draw, name) for draw in draws) for name in names}
    kinds = [kind for kind in SHOWN if any(counts[name][kind] for name in names)]
    metric, unit = markdown(first.metric.title), ", points" if first.metric.rate else ""
    lines = [
        pipes(["strategy", *(kind.value for kind in kinds), f"difference in test {metric}{unit}"]),
        pipes(["---", *["---:"] * (len(kinds) + 1)]),
    ]
    for name in names:
        means = [cell.versus.difference.mean for draw in draws if (cell := _cell(draw, name)) and cell.versus]
        low, high = (number(first, bound, sign=True) for bound in (min(means), max(means)))
        entries = [
            f"**{counts[name][kind]}**"
            if kind.decided and counts[name][kind] >= HOLDS * len(draws)
            else str(counts[name][kind])
            for kind in kinds
        ]
        lines.append(pipes([markdown(name), *entries, f"{low} to {high}"]))
    return lines


def draws_text(draws: list[Draw]) -> str:
    """What holds, the table of verdicts, and the table of all draws."""
    first = draws[0].comparison
    unit, baseline = ", points" if first.metric.rate else "", markdown(str(first.plan.baseline))
    metric = markdown(first.metric.title)
    lines = [
        f"# {counted(len(draws), 'draw')} of the sweep “{markdown(first.plan.name)}”",
        "",
        *(f"- {sentence}" for sentence in what_holds(draws)),
        "",
        f"Draws by their verdict on each strategy beside “{baseline}”, bold where at least "
        f"{100 * HOLDS:.0f} % have it, and the mean differences from the least to the largest:",
        "",
        *counts_table(draws),
        "",
        f"Mean difference to “{baseline}” in test {metric}{unit}, draw by draw; bold where that "
        "draw's interval, which its own table gives, decides:",
        "",
        pipes(["strategy", *(markdown(draw.label) for draw in draws)]),
        pipes(["---", *["---:"] * len(draws)]),
    ]
    lines += [
        pipes([markdown(name), *(_difference(draw, name) for draw in draws)]) for name in strategies(draws)
    ]
    lines.append(pipes([f"*{baseline}, test {metric}*", *(_mean(draw) for draw in draws)]))
    lines.append(pipes(["*teachers, mean*", *(_teacher(draw) for draw in draws)]))
    lines.append(pipes(["*converged*", *(_converged(draw) for draw in draws)]))
    lines += ["", *(_about(place, draw) for place, draw in enumerate(draws, 1)), ""]
    return "\n".join(lines)


def summary(draws: list[Draw]) -> str:
    """What holds in how many draws, and the table of verdicts."""
    sentences = [f"- {sentence}" for sentence in what_holds(draws)]
    return "\n".join([*sentences, "", *counts_table(draws)])


def put_into(page: Path, text: str) -> None:
    """Replace what a page has between the two comments.

    Raises:
        UserError: no such page, or it does not have each comment once, in this order.
    """
    if not page.is_file():
        raise UserError(f"--into: there is no file {page}.")
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise UserError(f"--into: {page} needs the lines {BEGIN} and {END}, each once and in this order.")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _cell(draw: Draw, name: str) -> Cell | None:
    return next((cell for cell in draw.comparison.cells if cell.name == name), None)


def _difference(draw: Draw, name: str) -> str:
    cell = _cell(draw, name)
    if cell is None or cell.versus is None:
        return DASH
    text = number(draw.comparison, cell.versus.difference.mean, sign=True)
    return f"**{text}**" if cell.versus.verdict.decided else text


def _mean(draw: Draw) -> str:
    cell = draw.comparison.baseline
    assert cell is not None  # read_draw requires it
    return number(draw.comparison, cell.best.mean)


def _teacher(draw: Draw) -> str:
    """The test metric of its teachers, on average."""
    values = [teacher.value for teacher in draw.comparison.teachers]
    return number(draw.comparison, sum(values) / len(values)) if values else DASH


def _converged(draw: Draw) -> str:
    return ", ".join(doubling.converged for doubling in draw.comparison.doublings) or "not checked"


def _about(place: int, draw: Draw) -> str:
    """The draw's own table, its seeds and its machine."""
    seeds = sorted({seed for cell in draw.comparison.cells for seed in cell.seeds})
    consecutive = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    text = f"{seeds[0]} to {seeds[-1]}" if consecutive else ", ".join(map(str, seeds))
    return f"- [{markdown(draw.label)}]({place}.md): seeds {text}; {markdown(draw.machine)}."


def picture(draws: list[Draw]) -> Picture:
    """A row for each strategy with an interval for each draw; variation between draws is chance."""
    first, names = draws[0].comparison, strategies(draws)
    figure = Figure(figsize=(WIDTH, 0.6 + (0.14 + 0.055 * len(draws)) * len(names)))
    axes = figure.subplots()
    away, looks = [], list[Look]()
    for row, name in enumerate(names):
        drawn = [
            (place, draw, cell)
            for index, draw in enumerate(draws)
            if (cell := _cell(draw, name)) and cell.versus
            for place in (row + (index - (len(draws) - 1) / 2) * 0.75 / len(draws),)
        ]
        looks += [_look(cell) for _, _, cell in drawn]
        if first.metric.rate and any(abs(_points(draw, cell)[0]) > FOCUS for _, draw, cell in drawn):
            away.append((row, [(draw, cell) for _, draw, cell in drawn]))
            continue
        for place, draw, cell in drawn:
            mean, low, high = _points(draw, cell)
            axes.plot([low, high], [place, place], color=_look(cell).colour, linewidth=1.2, zorder=3)
            axes.plot([mean], [place], zorder=4, **{**_look(cell).style, "markersize": 3.5})  # type: ignore[arg-type]
    axes.set_xlim(axes.get_xlim())  # keep the limits, whatever is drawn next
    for row, cells in away:
        _point_at(axes, row, cells)
    axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    name_rows(axes, [wrapped(name, 34) for name in names])
    axes.tick_params(axis="y", pad=8 if away else 3.5)
    unit = " (points)" if first.metric.rate else ""
    axes.set_xlabel(f"Test {first.metric.title}: difference to “{first.plan.baseline}”{unit}")
    legend_below(figure, verdict_handles(looks))
    caption = (
        f"Difference to “{first.plan.baseline}” by strategy; below one another the draws, in the order of "
        "the table, with the interval that carries each verdict. An arrow points at differences off the "
        "scale, from the least to the largest."
    )
    return render(figure, "draws", "The same comparison in several draws", caption)


def _points(draw: Draw, cell: Cell) -> tuple[float, float, float]:
    """A difference with its bounds, as printed."""
    assert cell.versus is not None  # checked by the callers
    found, scale = cell.versus.difference, draw.comparison.metric.scale
    return scale * found.mean, scale * found.low, scale * found.high


def _point_at(axes: Axes, row: int, cells: list[tuple[Draw, Cell]]) -> None:
    """One arrow for a strategy whose differences lie beyond the edge, with their range as text."""
    means = [cell.versus.difference.mean for _, cell in cells if cell.versus]
    below, looks = sum(means) < 0, {_look(cell) for _, cell in cells}
    text = " to ".join(number(cells[0][0].comparison, mean, sign=True) for mean in (min(means), max(means)))
    colour = looks.pop().colour if len(looks) == 1 else GREY
    arrow_beyond(axes, (axes.get_xlim()[0 if below else 1], row), below, text, (colour, 5, 7), fontsize=7)


def _look(cell: Cell) -> Look:
    return UNSEEN if cell.versus is None else look_of(cell.versus)


def main() -> None:
    """Tabulate and draw the draws of one sweep."""
    parser = script_parser(__doc__)
    parser.add_argument("more", nargs="*", metavar="STORAGE", help="storages of the other draws")
    parser.add_argument(
        "--label", action="append", metavar="TEXT", help="a draw's name, in order; once for each"
    )
    parser.add_argument("--into", type=Path, metavar="PAGE", help="put what holds between a page's comments")
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
    text = draws_text(draws)
    say(text)
    if arguments.out:
        with style():
            pictures = [picture(draws)]
        out = Folder.open(arguments.out)
        say(out.write("draws.md", text))
        for place, draw in enumerate(draws, 1):
            say(out.write(f"{place}.md", own_table(draw.comparison)))
        for path in write_pictures(pictures, arguments.out).values():
            say(path)
    if arguments.into:
        put_into(arguments.into, summary(draws))
        say(arguments.into)


if __name__ == "__main__":
    run(main)

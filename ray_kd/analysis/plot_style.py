"""The look that all figures share, and how they are written."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ray_kd.config.names import shortened

WIDTH = 7.0
"""Inches: a text block of A4 or letter, so that a figure is printed at its own size."""

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that people with colour vision deficiency tell apart (Okabe and Ito, 2008); their yellow is left
out: a line of it cannot be seen on white."""
STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
GREY = "#6E6E6E"
DEEPEST = 1e-8
"""A logarithmic axis ends at this share of its top."""

SETTINGS: dict[str, Any] = {
    "text.parse_math": False,  # names are drawn as they are, whatever they hold
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "ray-kd",
}


_RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


@dataclass(frozen=True)
class Picture:
    """One figure in both formats, with the words that go under it."""

    name: str
    title: str
    caption: str
    png: bytes
    svg: str
    trouble: str = ""
    """Why it could not be drawn; then it is not written."""


@contextmanager
def style() -> Iterator[None]:
    """The settings above for the block; the user's own are restored afterwards."""
    with matplotlib.rc_context(SETTINGS):  # type: ignore[arg-type]
        yield


def render(figure: Figure, name: str, title: str, caption: str) -> Picture:
    """The figure as PNG (200 dpi) and SVG; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)  # no window system, and nothing left in pyplot's global state
    png, svg = io.BytesIO(), io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # the layout is found: the second format need not find it again
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(svg, format="svg", metadata=nothing)
    if any("Glyph" in str(warning.message) for warning in caught):
        caption += " Characters that the font of the figure lacks are drawn as boxes."
    return Picture(name, title, caption, png.getvalue(), svg.getvalue())


def attempt(name: str, draw: Callable[[], Picture | None]) -> Picture | None:
    """The picture that ``draw`` makes; where it fails, one with the reason, so that others are drawn."""
    try:
        return draw()
    except Exception as error:
        reason = shortened(str(error) or type(error).__name__, 200)
        return Picture(name, f"Figure: {words(name)}", "", b"", "", f"{type(error).__name__}: {reason}")


def left_out(pictures: Iterable[Picture]) -> list[str]:
    """A sentence for each figure that could not be drawn."""
    return [
        f"the figure '{picture.name}' could not be drawn ({picture.trouble}); everything else is written."
        for picture in pictures
        if picture.trouble
    ]


def colours(count: int) -> list[str]:
    """``count`` colours, told apart up to eight; then they begin again."""
    palette = (*OKABE_ITO, GREY)
    return [palette[index % len(palette)] for index in range(count)]


def looks_of(count: int) -> list[tuple[str, Any]]:
    """``count`` pairs of colour and line style; 32 differ, and neighbours differ in both."""
    return [
        (colour, STYLES[(index + index // 8) % len(STYLES)]) for index, colour in enumerate(colours(count))
    ]


def wrapped(name: str, width: int) -> str:
    """The name on as many lines as it needs to be no wider than ``width`` characters."""
    name = shortened(name)
    return "\n".join(textwrap.wrap(name, width)) or name


def right_axis(axes: Axes, places: Any, labels: Sequence[str], heading: str) -> None:
    """A text beside each row (at ``places``) of a dot plot, with a heading above the texts."""
    right = axes.secondary_yaxis("right")
    right.set_yticks(places, labels)
    right.tick_params(axis="y", length=0)
    right.spines["right"].set_visible(False)
    axes.annotate(
        heading,
        (1.0, 1.0),
        xycoords="axes fraction",
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8,
        color=GREY,
        annotation_clip=False,
    )


def name_rows(axes: Axes, names: Sequence[str], places: Any = None, bottom: float | None = None) -> None:
    """Rows of a dot plot from top to bottom (at ``places``, one apart by default), named at the left."""
    rows = range(len(names)) if places is None else places
    axes.set_yticks(rows, [*names])
    axes.set_ylim(len(names) - 0.4 if bottom is None else bottom, -0.6 if bottom is None else 0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def arrow_beyond(
    axes: Axes, at: tuple[float, float], left: bool, text: str, look: tuple[str, float, float], **more: Any
) -> None:
    """An arrow at the edge of the scale, to the side where a value lies beyond it, with the value as text.

    Args:
        look: colour, size of the arrow and distance of the text from it, both in points.
    """
    colour, size, gap = look
    axes.plot(*([value] for value in at), "<" if left else ">", color=colour, markersize=size, clip_on=False)
    axes.annotate(
        text,
        at,
        xytext=(gap if left else -gap, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="center",
        color=colour,
        **{"fontsize": 8, **more},
    )


def legend_below(figure: Figure, *groups: list[Line2D], most: int = 4) -> None:
    """A legend under the figure, which grows by it; each group of handles begins a column of its own."""
    for handle in (handle for group in groups for handle in group):
        text = wrapped(str(handle.get_label()), 84)
        handle.set_label(f" {text}" if text.startswith("_") else text)  # matplotlib would leave it out
    rows, columns = 1, _legend_columns(groups, 1)
    while len(columns) > 1 and (len(columns) > most or _legend_width(columns) > WIDTH):
        rows += 1
        columns = _legend_columns(groups, rows)
        if all(len(column) < rows for column in columns):  # one group a column, and still too wide
            columns = [[handle for group in groups for handle in group]]
    handles = [handle for column in columns for handle in column]
    lines = max(sum(str(handle.get_label()).count("\n") + 1 for handle in column) for column in columns)
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.165 * lines)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(columns), columnspacing=1.6)


def _legend_columns(groups: tuple[list[Line2D], ...], rows: int) -> list[list[Line2D]]:
    """Columns of ``rows`` handles; the last of each group is filled up with invisible ones."""
    columns = [group[at : at + rows] for group in groups for at in range(0, len(group), rows)]
    tallest = max(len(column) for column in columns)
    filler = [Line2D([], [], linestyle="none", label=" ") for _ in columns for _ in range(tallest)]
    return [[*column, *(filler.pop() for _ in range(tallest - len(column)))] for column in columns]


def _legend_width(columns: list[list[Line2D]]) -> float:
    """Inches, roughly: a handle with its gaps, and its longest line."""
    longest = [max(len(x) for handle in c for x in str(handle.get_label()).split("\n")) for c in columns]
    return sum(0.6 + 0.068 * length for length in longest)


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers: 1, 2, 5 within few decades, else whole decades.

    Where panels share it, all of them must be drawn before: one panel's nearly constant values would cut off
    the others'.
    """
    axes.set_yscale("log")
    axis = axes.yaxis
    limits = [panel.dataLim.intervaly for panel in axes.get_shared_y_axes().get_siblings(axes)]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    if low > 0 and high < 3 * low:  # nearly one value: room for a second tick
        axes.set_ylim(low / 2, 2 * high)
    low, high = axis.get_view_interval()
    if low < DEEPEST * high:  # a value near 0 would press the others together
        low = DEEPEST * high
        axes.set_ylim(bottom=low)
    decades = math.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: object = None) -> str:
    if 1e-4 <= value < 1e5:
        return f"{value:,.10g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**exponent
    power = f"10{str(exponent).translate(_RAISED)}"
    return power if abs(factor - 1) < 1e-6 else f"{factor:g}\N{MULTIPLICATION SIGN}{power}"


def words(name: str) -> str:
    """A registered name as a reader would write it."""
    return name.upper() if len(name) <= 3 else name.replace("_", " ")

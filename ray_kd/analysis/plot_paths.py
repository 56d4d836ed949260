"""Weight and loss of every path over the epochs, as small multiples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.plot_style import (
    STYLES,
    WIDTH,
    Picture,
    colours,
    legend_below,
    looks_of,
    plain_log_axis,
    render,
    words,
    wrapped,
)
from ray_kd.analysis.records import Records

LOG_FROM = 30.0
"""Values that span more than this factor get a logarithmic axis."""
MOST = 12
"""Strategies in one figure, the best ones where there are more: more lines could not be told apart."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs: mean, least and largest over the seeds."""

    epochs: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def weights_picture(records: Records, comparison: Comparison) -> Picture | None:
    """Effective weight of each path, one panel for each cell whose weights change; None if none do."""
    frame = _usable(records)
    moves = _moving(frame)
    moving = [cell for cell in comparison.cells if cell.name in moves]
    cells = best_of(moving, comparison)
    if not cells:
        return None
    every = _labels(frame)  # a path has one colour in all figures
    colour = dict(zip(every, colours(len(every)), strict=True))
    frame = frame[frame["cell"].isin(cells)]
    labels = _labels(frame)
    log = _spans(frame["weight"])
    figure, panels = _panels(len(cells), columns=2, height=2.35, share=True)
    for axes, cell in zip(panels, cells, strict=True):
        for path, rows in frame[frame["cell"] == cell].groupby("path", sort=False):
            dash = STYLES[(_stage(str(path)) or 0) % len(STYLES)]
            _draw(axes, _curve(rows, "weight", log), colour[_label(str(path))], dash)
    for axes, cell in zip(panels, cells, strict=True):  # once all have drawn: they share an axis
        _finish(axes, cell, log)
    _label_outer(figure, panels, 2, "Effective weight")
    stages = sorted({stage for stage in map(_stage, frame["path"].unique()) if stage is not None})
    of_paths = [_handle(colour[label], "-", words(label)) for label in labels]
    of_stages = [_handle("#555555", STYLES[stage % len(STYLES)], f"stage {stage}") for stage in stages]
    legend_below(figure, *filter(None, (of_paths, of_stages)))
    caption = (
        "Effective factor on the raw loss of each path, mean over an epoch: line, mean over seeds"
        f"{' (geometric, where none is 0)' if log else ''}; band, least to largest seed. Strategies whose "
        f"weights stay as they were set are not drawn{_left_out(moving)}.{_torn(records)}"
    )
    return render(figure, "weights", "How the weight of each path moves", caption)


def losses_picture(records: Records, comparison: Comparison) -> Picture | None:
    """Raw loss of each path, one panel for each path and a line for each cell; None without paths."""
    frame = _usable(records)
    if frame.empty:
        return None
    drawn = set(frame["cell"].unique())
    known = [cell for cell in comparison.cells if cell.name in drawn]
    cells, every = best_of(known, comparison), _labels(frame)
    frame = frame[frame["cell"].isin(cells)]
    labels = _labels(frame)
    frame = frame.assign(label=[_label(path) for path in frame["path"]])
    keys = ["cell", "seed", "label", "epoch"]  # summing over the stages gives a path's loss
    frame = frame.groupby(keys, sort=False)["loss"].sum().reset_index()
    looks = _looks({cell: list(frame[frame["cell"] == cell]["label"].unique()) for cell in cells}, every)
    figure, panels = _panels(len(labels), columns=2, height=2.2)
    for axes, label in zip(panels, labels, strict=True):
        mine = frame[frame["label"] == label]
        log = bool((mine["loss"].astype(float) > 0).all())  # some losses (VID) may fall below 0
        for cell in cells:
            rows = mine[mine["cell"] == cell]
            if len(rows):
                _draw(axes, _curve(rows, "loss", log), *looks[cell], band=0.08)
        _finish(axes, words(label), log)
    _label_outer(figure, panels, 2, "Raw loss")
    handles = [_handle(*looks[cell], cell) for cell in cells]
    legend_below(figure, handles)
    caption = (
        "Loss of each path before any weight, mean over an epoch (sum over its stages), logarithmic where it "
        "stays positive: line, (geometric) mean over seeds; band, least to largest seed. Only strategies "
        f"that use the path are drawn{_left_out(known)}; scales differ between panels.{_torn(records)}"
    )
    return render(figure, "losses", "How far each path's loss falls", caption)


def _usable(records: Records) -> pd.DataFrame:
    """Path rows of compared trials: of each cell the finished ones; without one, what there is so far."""
    trials = records.trials[records.trials["phase"] == "compare"]
    states: dict[str, dict[str, set[str]]] = {}
    for cell, status, identity in trials[["cell", "status", "identity"]].itertuples(index=False):
        states.setdefault(str(cell), {}).setdefault(str(status), set()).add(str(identity))
    kept = [
        (cell, identity)
        for cell, of in states.items()
        for identity in next((of[one] for one in ("finished", "running", "unfinished") if one in of), ())
    ]
    paths = records.whole_paths
    finite = np.isfinite(paths["weight"].to_numpy(float)) & np.isfinite(paths["loss"].to_numpy(float))
    whose = pd.MultiIndex.from_frame(paths[["cell", "identity"]])
    wanted = whose.isin(kept) if kept else np.zeros(len(paths), dtype=bool)
    usable: pd.DataFrame = paths.loc[finite & wanted & (paths["phase"] == "compare").to_numpy(bool)]
    return usable


def _labels(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(_label(str(path)) for path in frame["path"]))


def _looks(paths: dict[str, list[str]], labels: list[str]) -> dict[str, tuple[str, Any]]:
    """Colour and line style of each cell: a path's own for the one that has that path alone."""
    own = dict(zip(labels, looks_of(len(labels)), strict=True))
    looks: dict[str, tuple[str, Any]] = {}
    for cell, mine in paths.items():
        if len(mine) == 1 and own[mine[0]] not in looks.values():
            looks[cell] = own[mine[0]]
    taken = {colour for colour, _ in looks.values()}
    free = [look for look in looks_of(32) if look[0] not in taken]
    free = free or [look for look in looks_of(32) if look not in looks.values()]
    return looks | dict(zip((cell for cell in paths if cell not in looks), cycle(free), strict=False))


def best_of(cells: Sequence[Cell], comparison: Comparison) -> list[str]:
    """Names of the cells, in their order; of more than ``MOST`` those with the best means."""
    sign = 1.0 if comparison.metric.mode == "max" else -1.0
    ranked = sorted(cells, key=lambda cell: sign * cell.best.mean if cell.n else -math.inf, reverse=True)
    kept = {cell.name for cell in ranked[:MOST]}
    return [cell.name for cell in cells if cell.name in kept]


def _left_out(cells: Sequence[Cell]) -> str:
    return f", and of {len(cells)} the {MOST} with the best means" if len(cells) > MOST else ""


def _torn(records: Records) -> str:
    torn = records.trials[(records.trials["phase"] == "compare") & records.trials["incomplete"].notna()]
    if torn.empty:
        return ""
    return f" Left out, since the record is incomplete: {len(torn)} trial{'s' if len(torn) > 1 else ''}."


def _label(path: str) -> str:
    return path.split("/")[0]


def _stage(path: str) -> int | None:
    """The number at the end of 'nst/stage2'; None for a whole path."""
    digits = "".join(character for character in path.partition("/")[2] if character.isdigit())
    return int(digits) if digits else None


def _moving(frame: pd.DataFrame) -> set[str]:
    """The cells in which the weight of a path of a seed moves by more than a thousandth of itself."""
    bounds = frame.groupby(["cell", "seed", "path"])["weight"].agg(["min", "max"])
    moves = bounds["max"] - bounds["min"] > 1e-3 * bounds["max"].abs()
    return set(moves[moves].index.get_level_values("cell"))


def _spans(values: pd.Series) -> bool:
    """Whether weights get a logarithmic axis, where a weight of 0 (a path that is off) lies at the bottom."""
    array = values.to_numpy(dtype=float)
    above = array[array > 0]
    return bool((array >= 0).all() and above.size and above.max() > LOG_FROM * above.min())


def _curve(frame: pd.DataFrame, column: str, log: bool) -> Curve:
    grouped = frame.assign(value=frame[column].astype(float)).groupby("epoch")["value"]
    log = log and bool((frame[column] > 0).all())
    means = grouped.apply(lambda seeds: math.exp(np.log(seeds).mean())) if log else grouped.mean()
    epochs = means.index.to_numpy(dtype=float)
    return Curve(epochs, means.to_numpy(), grouped.min().to_numpy(), grouped.max().to_numpy())


def _draw(axes: Axes, curve: Curve, colour: str, dash: Any, band: float = 0.16) -> None:
    axes.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=band, linewidth=0)
    marker = "o" if len(curve.epochs) == 1 else None
    axes.plot(curve.epochs, curve.mean, color=colour, linestyle=dash, marker=marker, markersize=3)


def _panels(count: int, columns: int, height: float, share: bool = False) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.72 * WIDTH, 0.25 + height * lines))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=share)
    flat = list(grid.flat)
    for axes in flat[count:]:
        axes.set_visible(False)
    return figure, flat[:count]


def _finish(axes: Axes, title: str, log: bool) -> None:
    axes.set_title(wrapped(title, 40), loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    first, last = axes.dataLim.intervalx
    room = 0.02 * (last - first) or 0.5
    axes.set_xlim(first - room, last + room)
    if log:
        plain_log_axis(axes)


def _label_outer(figure: Figure, panels: Sequence[Axes], columns: int, quantity: str) -> None:
    """The quantity at the left of every line of panels, the epochs under the lowest panel of each column."""
    for index, axes in enumerate(panels):
        if index % columns == 0:
            axes.set_ylabel(quantity)
        if index + columns >= len(panels):
            axes.set_xlabel("Epoch")
    figure.align_ylabels(panels)


def _handle(colour: str, dash: Any, label: str) -> Line2D:
    return Line2D([], [], color=colour, linestyle=dash, label=label)

"""Cells: the named combinations of overrides that a sweep compares."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ray_kd.config.options import Strict

Overrides = dict[str, Any]

SEARCHED = " (searched)"
"""Suffix of the name of a cell whose settings a search chose."""

TASK = "task"
"""The axis whose values are tasks: cells that differ only along it are one strategy."""


class Cell(Strict):
    """One combination of overrides that is compared; its trials differ only in the seed."""

    name: str
    overrides: Overrides
    axes: dict[str, Any] = Field(default_factory=dict)
    """The cell's values of the axes; empty for a named cell."""


VARY = "vary"
"""The axis whose labels say what seeds redraw, for a sweep that asks which source of chance matters most."""


def strategy_name(cell: str, axes: Mapping[str, Any], axis: str = TASK) -> str:
    """The name of a cell without its label on an axis: ``detection, utility`` is the strategy ``utility``."""
    if axis not in axes:
        return cell
    for label in (f"{axis}={axes[axis]}", str(axes[axis])):
        for piece in (f"{label}, ", f", {label}"):
            if piece in cell:
                return cell.replace(piece, "", 1)
    return cell


def searched_name(cell: str) -> str:
    """The name of the cell that holds the winner of a cell's search."""
    return f"{cell}{SEARCHED}"


def product_cells(axes: Mapping[str, Mapping[str, Overrides] | tuple[Any, ...]]) -> list[Cell]:
    """One cell for each combination of the axes' values, the last axis varying fastest.

    A labelled value adds its label to the cell's name; a plain value of a dotted key adds
    ``lr=0.1``, with the key shortened to its last part.
    """
    columns: list[list[tuple[str, str, Any, Overrides]]] = []
    for axis, values in axes.items():
        if isinstance(values, Mapping):
            columns.append([(axis, label, label, given) for label, given in values.items()])
        else:
            short = axis.rsplit(".", 1)[-1]
            columns.append([(axis, f"{short}={value}", value, {axis: value}) for value in values])
    cells = []
    for row in itertools.product(*columns):
        overrides: Overrides = {}
        for _, _, _, given in row:
            overrides.update(given)
        name = ", ".join(label for _, label, _, _ in row)
        cells.append(Cell(name=name, overrides=overrides, axes={axis: value for axis, _, value, _ in row}))
    return cells

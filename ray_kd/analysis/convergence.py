"""Whether training was long enough: what doubling the epochs gains on validation data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ray_kd.analysis.records import Plan, by_seed
from ray_kd.statistics.intervals import Interval, paired

ENOUGH = 0.005
"""Half a point: a gain below it counts as converged."""


@dataclass(frozen=True)
class Doubling:
    """The gain of a control cell, trained longer, over the cell it controls."""

    cell: str
    control: str
    epochs: int | None
    control_epochs: int | None
    gain: Interval
    """Validation metric of the control minus that of the cell, over common seeds; > 0: longer is better."""

    @property
    def converged(self) -> bool | None:
        """Whether the mean gain is below half a point; None without a common finished seed."""
        return None if math.isnan(self.gain.mean) else self.gain.mean < ENOUGH


def doubling_gain(short: Mapping[int, float], long: Mapping[int, float], mode: str = "max") -> Interval:
    """Gain of ``long`` over ``short`` (validation metric by seed), positive where longer is better.

    Both are the best validation value of a run. A maximum over more epochs is larger by chance, so the
    gain is overestimated, and a small gain does show convergence.
    """
    sign = 1.0 if mode == "max" else -1.0
    better, worse = ({seed: sign * value for seed, value in cell.items()} for cell in (long, short))
    return paired(better, worse).difference


def controls(trials: pd.DataFrame, plan: Plan, metric: str, mode: str) -> Iterator[Doubling]:
    """Every cell of phase ``control`` against the cell it controls.

    That is the compared cell whose name the control's name begins with (``student alone, 2x epochs``
    controls ``student alone``), else the baseline.
    """
    finished = trials[trials["status"] == "finished"]
    compared = [str(cell) for cell in trials[trials["phase"] == "compare"]["cell"].unique()]
    for control in trials[trials["phase"] == "control"]["cell"].unique():
        prefixes = [cell for cell in compared if str(control).startswith(cell)]
        cell = max(prefixes, key=len, default=plan.baseline)
        if cell is None:
            continue
        short = finished[(finished["cell"] == cell) & (finished["phase"] == "compare")]
        long = finished[(finished["cell"] == control) & (finished["phase"] == "control")]
        column = f"best_val_{metric}"
        gain = doubling_gain(by_seed(short, column), by_seed(long, column), mode)
        yield Doubling(cell, str(control), _epochs(short), _epochs(long), gain)


def _epochs(trials: pd.DataFrame) -> int | None:
    epochs = trials["epochs"].dropna()
    return int(epochs.max()) if len(epochs) else None

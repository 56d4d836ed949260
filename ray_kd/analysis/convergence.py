"""What controls say: whether training was long enough, and how large the noise of arithmetic is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from ray_kd.analysis.records import Plan, by_seed
from ray_kd.statistics.intervals import Interval, paired

ENOUGH = 0.005
"""Half a point: a gain below it counts as converged."""


class Converged(StrEnum):
    """Whether training was long enough, by the interval of what twice the epochs gain."""

    YES = "converged"
    """The whole interval lies below half a point."""
    NO = "not converged"
    """The whole interval lies above it."""
    OPEN = "cannot tell"
    """It holds half a point, or there is no interval: fewer than two seeds."""


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
    def converged(self) -> Converged:
        """Where the 95 % interval of the gain lies."""
        if self.gain.high < ENOUGH:
            return Converged.YES
        return Converged.NO if self.gain.low > ENOUGH else Converged.OPEN


@dataclass(frozen=True)
class Repeat:
    """A cell trained again with a disturbance in the last bits of its initial weights."""

    cell: str
    control: str
    arithmetic: float
    """Standard deviation of a run's test metric under such disturbances: sqrt(mean(d²) / 2) over the
    differences d between the two runs of each seed."""
    seeds: float
    """Standard deviation of the test metric from seed to seed, of the cell itself."""
    n: int
    """Seeds that both have."""


def doubling_gain(
    short: Mapping[int, float], long: Mapping[int, float], mode: str = "max", overlap: float = 0.0
) -> Interval:
    """Gain of ``long`` over ``short`` (validation metric by seed), positive where longer is better.

    Both are the best validation value of a run. A maximum over more epochs is larger by chance, so the
    gain is overestimated, and a small gain does show convergence.
    """
    sign = 1.0 if mode == "max" else -1.0
    better, worse = ({seed: sign * value for seed, value in cell.items()} for cell in (long, short))
    return paired(better, worse, overlap=overlap)


def controls(trials: pd.DataFrame, plan: Plan, metric: str, mode: str) -> Iterator[Doubling]:
    """Every control that is no repeat against the cell it controls; see ``_pairs``."""
    for cell, control, short, long in _pairs(trials, plan):
        if control not in plan.repeats:
            column = f"best_val_{metric}"
            gain = doubling_gain(by_seed(short, column), by_seed(long, column), mode, plan.overlap(cell))
            yield Doubling(cell, control, _epochs(short), _epochs(long), gain)


def repeats(trials: pd.DataFrame, plan: Plan, metric: str) -> Iterator[Repeat]:
    """Every control that is a repeat (``training.disturb``), where it has a seed in common with its cell."""
    for cell, control, first, again in _pairs(trials, plan):
        one, other = (by_seed(cells, f"best_test_{metric}") for cells in (first, again))
        both = sorted(one.keys() & other.keys())
        if control in plan.repeats and both:
            squares = [(one[seed] - other[seed]) ** 2 for seed in both]
            spread = float(pd.Series([one[seed] for seed in both]).std())  # nan for one seed
            yield Repeat(cell, control, math.sqrt(sum(squares) / (2 * len(both))), spread, len(both))


def _pairs(trials: pd.DataFrame, plan: Plan) -> Iterator[tuple[str, str, pd.DataFrame, pd.DataFrame]]:
    """Every cell of phase ``control`` with the cell it controls, and the finished trials of both.

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
        own = finished[(finished["cell"] == cell) & (finished["phase"] == "compare")]
        other = finished[(finished["cell"] == control) & (finished["phase"] == "control")]
        yield cell, str(control), own, other


def _epochs(trials: pd.DataFrame) -> int | None:
    epochs = trials["epochs"].dropna()
    return int(epochs.max()) if len(epochs) else None

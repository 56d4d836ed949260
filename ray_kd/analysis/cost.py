"""At what cost: the test metric beside training seconds and parameters, and who may be on the front."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.fixed import fixed_seeds
from ray_kd.analysis.records import Records, by_seed
from ray_kd.config.errors import UserError
from ray_kd.statistics.front import beaten_by

MACHINE = ("device_name", "device", "host", "threads", "precision")
"""Columns by which seconds differ without the strategies' doing."""


@dataclass(frozen=True)
class Priced:
    """One cell, by means over the seeds."""

    cell: str
    value: float
    seconds: float
    """Wall seconds of training; the teacher's training and a search are not in it."""
    parameters: float
    """Of the student as it is exported."""
    beaten_by: tuple[str, ...]

    @property
    def may_be_on_front(self) -> bool:
        """Whether no cell is better and costs less, for sure."""
        return not self.beaten_by


@dataclass(frozen=True)
class Cost:
    """The cells that have all seeds, the cheapest to train first."""

    comparison: Comparison
    cells: tuple[Priced, ...]
    seeds: tuple[int, ...]
    lacking: tuple[str, ...]
    """Cells that lack a seed's figure or cost, of which nothing is said."""
    machines: tuple[str, ...]
    """What differs among the machines that trained them."""


def cost(records: Records, comparison: Comparison) -> Cost:
    """The cells with their costs, over the fixed seeds of the sweep.

    Raises:
        UserError: the sweep declared several looks, or no cell has finished all seeds.
    """
    trials, name = records.trials, comparison.plan.name
    compared = trials[trials["phase"] == "compare"]
    fixed = fixed_seeds(comparison, [int(seed) for seed in compared["seed"].dropna().unique()], "cost")
    finished = compared[(compared["status"] == "finished") & compared["seed"].isin(fixed.seeds)]
    values, costs, lacking = dict[str, dict[int, float]](), dict[str, list[dict[int, float]]](), list[str]()
    for cell in comparison.cells:
        rows = finished[finished["cell"] == cell.name]
        known = {seed: value for seed, value in cell.seeds.items() if seed in fixed.seeds}
        prices = [by_seed(rows, column) for column in ("seconds", "parameters")]
        if any(found.keys() != set(fixed.seeds) for found in (known, *prices)):
            lacking.append(cell.name)
            continue
        values[cell.name] = known
        costs[cell.name] = prices
    if not values:
        raise UserError(
            f"only cost: no cell of sweep '{name}' has finished all of its {len(fixed.seeds)} seeds."
        )
    beaten = beaten_by(values, costs, comparison.metric.mode == "max", fixed.overlap)
    cells = [
        Priced(cell, _mean(known), _mean(costs[cell][0]), _mean(costs[cell][1]), beaten[cell])
        for cell, known in values.items()
    ]
    counted = finished[finished["cell"].isin(list(values))]
    machines = tuple(column for column in MACHINE if counted[column].nunique(dropna=False) > 1)
    return Cost(comparison, tuple(sorted(cells, key=_price)), fixed.seeds, tuple(lacking), machines)


def _price(cell: Priced) -> tuple[float, float]:
    return cell.seconds, cell.parameters


def _mean(found: dict[int, float]) -> float:
    return math.fsum(found.values()) / len(found)

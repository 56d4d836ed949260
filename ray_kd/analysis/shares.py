"""How hard each path pulls: the share w‖g‖ / Σ w‖g‖ of its weighted gradient, over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ray_kd.analysis.arms import Arm
from ray_kd.analysis.stats import Interval, interval

QUARTER = 0.25
"""Shares are judged after this part of the training ..."""
MEASUREMENTS = 100
"""... and after so many measurements, whichever is later."""


@dataclass(frozen=True)
class Share:
    """One path's share in one arm, from the epoch on from which it is judged.

    Attributes:
        by_seed: mean over those epochs, by seed; a seed without a measured epoch is absent.
        bounds: mean over seeds with one-sided 95 % bounds.
        first: the first epoch that counts, of the seed where it is latest.
    """

    path: str
    by_seed: dict[int, float]
    bounds: Interval
    first: int

    @property
    def mean(self) -> float:
        """Mean over seeds; nan where nothing was measured."""
        return self.bounds.mean


def pulls(arm: Arm, paths: pd.DataFrame) -> pd.DataFrame:
    """A row (seed, epoch, path, share, measured) for each path and epoch of an arm's runs.

    Weight times gradient norm, where the norm was measured in that epoch; else the share that the
    aggregator keeps from its own measurements; else the epoch is left out. The stages of a path are
    summed (their norms, not their gradients). ``measured`` counts the measurements so far. Where every
    path is off, every share is 0.
    """
    rows = paths[paths["identity"].isin(list(arm.identities.values())) & (paths["cell"] == arm.cell)]
    frame = pd.DataFrame(
        {
            "seed": rows["seed"].astype(int),
            "epoch": rows["epoch"].astype(int),
            "path": [str(name).partition("/")[0] for name in rows["path"]],
            "pull": (rows["weight"] * rows["gradient_norm"]).abs().astype(float),
            "share": rows["share"].astype(float),
            "measured": rows["measurements"].astype(float),
        }
    )
    if frame.empty:
        return frame
    keys = ["seed", "epoch"]
    measured = frame.groupby(keys)["pull"].transform(lambda pull: pull.notna().all()).astype(bool)
    frame["pull"] = frame["pull"].where(measured, frame["share"])
    frame = frame[frame.groupby(keys)["pull"].transform(lambda pull: pull.notna().all()).astype(bool)]
    frame = frame.groupby([*keys, "path"], sort=False).agg({"pull": "sum", "measured": "max"}).reset_index()
    total = frame.groupby(keys)["pull"].transform("sum")
    share = np.where(total > 0, frame["pull"] / total.where(total > 0, 1.0), 0.0)
    return frame.drop(columns="pull").assign(share=share)


def shares_of(arm: Arm, paths: pd.DataFrame) -> list[Share]:
    """The share of each path of an arm, over the epochs that are judged."""
    frame = pulls(arm, paths)
    found = []
    for path in sorted(arm.clean) + sorted(arm.harmful):
        mine = frame[frame["path"] == path]
        late = mine[(mine["epoch"] > QUARTER * arm.epochs) & ~(mine["measured"] < MEASUREMENTS)]
        values = {int(seed): float(rows["share"].mean()) for seed, rows in late.groupby("seed")}  # type: ignore[arg-type]
        first = int(late.groupby("seed")["epoch"].min().max()) if len(late) else 0
        found.append(Share(path, values, interval(list(values.values()), 0.90), first))
    return found

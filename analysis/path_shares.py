"""The share of each path in the update, w‖g‖ / Σ w‖g‖ (weight times gradient norm), over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.strategies import Strategy
from ray_kd.statistics.intervals import Interval, interval

QUARTER = 0.25
"""Shares are judged after this part of the training, and not before ``MEASUREMENTS`` measurements."""
MEASUREMENTS = 100
OFF = 0.05
"""A path with a share below this counts as off."""


@dataclass(frozen=True)
class Share:
    """One path's share under one strategy, over the epochs that are judged.

    Attributes:
        by_seed: mean over those epochs, by seed; a seed without a measured epoch is absent.
        bounds: mean over seeds with one-sided 95 % bounds.
        first: the first epoch that is judged; the latest of all seeds.
    """

    path: str
    by_seed: dict[int, float]
    bounds: Interval
    first: int

    @property
    def mean(self) -> float:
        """Mean over seeds; nan where nothing was measured."""
        return self.bounds.mean


def shares_by_epoch(strategy: Strategy, paths: pd.DataFrame) -> pd.DataFrame:
    """A row (seed, epoch, path, share, measured) for each path and epoch of a strategy's runs.

    The share is from weight times gradient norm where the norm was measured in that epoch, else it is the
    one that the aggregator recorded; an epoch with neither is left out. The stages of a path are summed
    (their norms, not their gradients). ``measured`` counts the measurements so far. Where all paths have
    weight 0, every share is 0.
    """
    rows = paths[
        paths["identity"].isin(list(strategy.identities.values())) & (paths["cell"] == strategy.cell)
    ]
    frame = pd.DataFrame(
        {
            "seed": rows["seed"].astype(int),
            "epoch": rows["epoch"].astype(int),
            "path": [str(name).partition("/")[0] for name in rows["path"]],
            "norm": (rows["weight"] * rows["gradient_norm"]).abs().astype(float),
            "share": rows["share"].astype(float),
            "measured": rows["measurements"].astype(float),
        }
    )
    if frame.empty:
        return frame
    keys = ["seed", "epoch"]
    measured = frame.groupby(keys)["norm"].transform(lambda norm: norm.notna().all()).astype(bool)
    frame["norm"] = frame["norm"].where(measured, frame["share"])
    frame = frame[frame.groupby(keys)["norm"].transform(lambda norm: norm.notna().all()).astype(bool)]
    frame = frame.groupby([*keys, "path"], sort=False).agg({"norm": "sum", "measured": "max"}).reset_index()
    total = frame.groupby(keys)["norm"].transform("sum")
    share = np.where(total > 0, frame["norm"] / total.where(total > 0, 1.0), 0.0)
    return frame.drop(columns="norm").assign(share=share)


def path_shares(strategy: Strategy, paths: pd.DataFrame) -> list[Share]:
    """The share of each path of a strategy, over the epochs that are judged."""
    frame = shares_by_epoch(strategy, paths)
    found = []
    for path in sorted(strategy.clean) + sorted(strategy.harmful):
        mine = frame[frame["path"] == path]
        late = mine[(mine["epoch"] > QUARTER * strategy.epochs) & ~(mine["measured"] < MEASUREMENTS)]
        values = {int(seed): float(rows["share"].mean()) for seed, rows in late.groupby("seed")}  # type: ignore[arg-type]
        first = int(late.groupby("seed")["epoch"].min().max()) if len(late) else 0
        found.append(Share(path, values, interval(list(values.values()), 0.90), first))
    return found

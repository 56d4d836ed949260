"""Which run of a sweep is the best student, by validation."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ray_kd.config.ending import Ending


@dataclass(frozen=True)
class BestStudent:
    """The finished student of a task whose best epoch had the best figure on validation.

    Attributes:
        value: that figure.
        among: how many finished students it was chosen from.
    """

    task: str
    cell: str
    seed: int
    identity: str
    metric: str
    value: float
    among: int


def students(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished students of the cells that a sweep compares: no teacher, candidate or control."""
    finished = trials["status"] == Ending.FINISHED.value
    return trials[finished & (trials["phase"] == "compare")].drop_duplicates("identity")


def best_students(trials: pd.DataFrame) -> list[BestStudent]:
    """The best student of each task of a sweep; none of a task of which none has finished."""
    found = []
    for task, group in students(trials).groupby("task", sort=False):
        row = group.iloc[0]
        metric, smaller = str(row["monitor"]), row["mode"] == "min"
        column = f"best_val_{metric}"
        measured = group.dropna(subset=[column]) if column in group else group.head(0)
        if measured.empty:
            continue
        best = measured.sort_values(column, ascending=smaller, kind="stable").iloc[0]
        found.append(
            BestStudent(
                str(task),
                str(best["cell"]),
                int(best["seed"]),
                str(best["identity"]),
                metric,
                float(best[column]),
                len(measured),
            )
        )
    return found

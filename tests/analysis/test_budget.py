"""What searches find at each budget, from records of candidates; and which searches are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ray_kd.analysis import analyze
from ray_kd.analysis.budget import Budget, budget
from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.config.errors import UserError
from tests.analysis.make_records import Strategy, make_records

EVEN = [0.80 + 0.001 * index for index in range(20)]
WILD = [0.65 + 0.012 * index for index in range(20)]
"""Worse on average, better at best."""


def storage(
    root: Path, cells: dict[str, list[float]], method: Any = "random", statuses: dict[int, str] | None = None
) -> Path:
    """Records of a sweep whose cells were searched: the validation metric of each candidate, on one seed.

    Args:
        method: of all cells, or by cell.
        statuses: of the candidates of the last cell.
    """
    strategies = {cell: Strategy(("soft_target",)) for cell in cells}
    lots = sum(map(len, cells.values()))
    last = len(cells[list(cells)[-1]])
    made = {(list(cells)[-1], lots - last + index): status for index, status in (statuses or {}).items()}
    make_records(
        root,
        strategies=strategies,
        seeds=1,
        epochs=2,
        control=False,
        baseline=None,
        search=lots,
        statuses=made,
    )
    folder = root / "sweeps" / "digits"
    plan = json.loads((folder / "plan.json").read_text())
    tried = iter([trial for trial in plan["trials"] if trial["phase"] == "search"])
    for cell, values in cells.items():
        for candidate, value in enumerate(values):
            trial = next(tried)
            trial.update(cell=cell, candidate=candidate, seed=0)
            file = root / "runs" / trial["identity"] / "summary.json"
            if file.exists() and (summary := json.loads(file.read_text()))["best"]:
                summary["best"]["val"]["top1"] = value
                file.write_text(json.dumps(summary))
    (folder / "plan.json").write_text(json.dumps(plan))
    by_cell = method if isinstance(method, dict) else dict.fromkeys(cells, method)
    searches = [{"method": kind, "cells": [cell]} for cell, kind in by_cell.items()]
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"name": "digits", "search": searches}))
    return root


def found_in(root: Path) -> Budget:
    records = read_records(root, "digits")
    return budget(records, compare_cells(records), Folder.open(root))


def test_the_order_of_cells_changes_with_the_budget(tmp_path: Path) -> None:
    found = found_in(storage(tmp_path, {"even": EVEN, "wild": WILD}))
    even, wild = found.curves
    assert (even.points[0].mean, even.points[-1].mean) == pytest.approx((np.mean(EVEN), max(EVEN)))
    (passing,) = found.passings
    assert (passing.ahead, passing.behind) == ("wild", "even")
    assert even.points[passing.budget - 2].mean > wild.points[passing.budget - 2].mean
    assert even.points[passing.budget - 1].mean < wild.points[passing.budget - 1].mean


def test_a_change_is_sure_where_intervals_lie_apart_on_both_sides(tmp_path: Path) -> None:
    mixed = [0.5] * 15 + [0.95] * 15
    even = [0.80 + 0.0001 * index for index in range(30)]
    found = found_in(storage(tmp_path, {"even": even, "mixed": mixed}))
    (passing,) = found.passings
    at_one = [curve.at(1) for curve in found.curves]
    assert all(point is not None for point in at_one)
    assert passing.sure == (found.apart(1)[0] == 1 and any(found.apart(n)[0] for n in range(2, 31)))
    assert not passing.sure  # one candidate may be either: the interval of its median spans both
    rare = [0.5] * 40 + [0.95] * 20
    even = [0.80 + 0.0001 * index for index in range(60)]
    (passing,) = found_in(storage(tmp_path / "more", {"even": even, "rare": rare})).passings
    assert passing.sure


def test_candidates_on_several_seeds_count_by_their_mean(tmp_path: Path) -> None:
    root = storage(tmp_path, {"even": [0.8, 0.9, 0.6, 0.7]})
    file = root / "sweeps" / "digits" / "plan.json"
    plan = json.loads(file.read_text())
    for trial in plan["trials"]:
        if trial["phase"] == "search":
            trial.update(seed=trial["candidate"] % 2, candidate=trial["candidate"] // 2)
    file.write_text(json.dumps(plan))
    (curve,) = found_in(root).curves
    assert [point.mean for point in curve.points] == pytest.approx([0.75, 0.85])


def test_candidates_that_failed_are_counted_and_named(tmp_path: Path) -> None:
    root = storage(tmp_path / "s", {"even": EVEN, "wild": WILD}, statuses={19: "failed", 3: "failed"})
    (_, wild) = found_in(root).curves
    assert (wild.failed, len(wild.points)) == (2, 18)
    assert wild.points[-1].mean == pytest.approx(WILD[18])
    assert "“wild”: 2 candidates failed" in analyze(root, only="budget", out=tmp_path).answers


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("optuna", "'even': optuna, which learns from the candidates before; only a random search"),
        ("grid", "'even': a grid; only a random search"),
    ],
)
def test_candidates_that_are_no_independent_draws_are_refused(
    tmp_path: Path, method: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        found_in(storage(tmp_path / "one", {"even": EVEN}, method))
    both = storage(tmp_path / "two", {"even": EVEN, "wild": WILD}, {"even": method, "wild": "random"})
    found = found_in(both)
    assert [curve.cell for curve in found.curves] == ["wild"]
    assert list(found.refused) == ["even"]


@pytest.mark.parametrize(
    ("status", "message"),
    [("stopped", "a scheduler stopped 1 of 20 trials"), ("missing", "1 of 20 trials have not ended")],
)
def test_a_search_without_a_figure_of_each_candidate_is_refused(
    tmp_path: Path, status: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        found_in(storage(tmp_path, {"wild": WILD}, statuses={7: status}))


def test_a_sweep_without_a_search_is_refused(tmp_path: Path) -> None:
    root = make_records(tmp_path, strategies={"alone": Strategy()}, seeds=2, epochs=2, baseline=None)
    with pytest.raises(UserError, match="no random search that has ended \\(no cell was searched\\)"):
        found_in(root)


def test_table_csv_and_figure_are_written(tmp_path: Path) -> None:
    root = storage(tmp_path / "s", {"even": EVEN, "wild": WILD})
    found = analyze(root, only="budget", out=tmp_path / "out")
    assert set(found.files) == {
        *(f"budget.{end}" for end in ("md", "csv")),
        *(f"plots/budget.{end}" for end in ("png", "svg")),
    }
    assert (
        "| cell | candidates | best of 1<br>%; median | best of 2<br>%; median | best of 5<br>%; median |"
        in found.answers
    )
    assert "“wild” is ahead of “even” (not sure)" in found.answers
    rows = [row.split(",") for row in (tmp_path / "out" / "budget.csv").read_text().splitlines()[1:]]
    assert len(rows) == 40
    assert float(rows[0][2]) == pytest.approx(np.mean(EVEN))
    assert rows[19][4] == ""  # the median best of 20 has no upper bound from 20 candidates
    assert not math.isnan(float(rows[19][3]))
    assert not found.left_out

"""The metric beside its cost, from records: who may be on the front, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_kd.analysis import analyze
from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.cost import Cost, cost
from ray_kd.analysis.records import read_records
from ray_kd.config.errors import UserError
from tests.analysis.make_records import Strategy, make_records

SEEDS = 6
LEVELS = {"alone": (0.80, 10.0, 100), "good": (0.90, 12.0, 100), "waste": (0.85, 20.0, 100)}
"""Of each cell: accuracy, seconds, parameters."""


def storage(root: Path, levels: dict[str, tuple[float, float, int]] = LEVELS, **more: Any) -> Path:
    values = {
        (cell, seed): value + 0.001 * ((3 * seed + place) % 5)
        for place, (cell, (value, _, _)) in enumerate(levels.items())
        for seed in range(SEEDS)
    }
    given = {
        "strategies": dict.fromkeys(levels, Strategy(("soft_target",))),
        "values": values,
        "seeds": SEEDS,
    }
    make_records(root, epochs=2, control=False, **{**given, "baseline": "alone", **more})
    for trial in json.loads((root / "sweeps" / "digits" / "plan.json").read_text())["trials"]:
        file = root / "runs" / trial["identity"] / "summary.json"
        if file.exists():
            _, seconds, parameters = levels[trial["cell"]]
            slower = 1 + 0.01 * (trial["seed"] % 3 + len(trial["cell"]) % 2)
            change = {"seconds": seconds * slower, "parameters": parameters}
            file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    return root


def found_in(root: Path) -> Cost:
    records = read_records(root, "digits")
    return cost(records, compare_cells(records))


def test_a_cell_that_is_worse_and_dearer_is_beaten(tmp_path: Path) -> None:
    found = found_in(storage(tmp_path))
    assert [(cell.cell, cell.beaten_by) for cell in found.cells] == [
        ("alone", ()),
        ("good", ()),
        ("waste", ("good",)),
    ]
    assert found.cells[0].value == pytest.approx(0.80 + 0.001 * sum(3 * seed % 5 for seed in range(6)) / 6)
    assert (found.lacking, found.machines) == ((), ())


def test_more_parameters_are_a_cost_too(tmp_path: Path) -> None:
    found = found_in(storage(tmp_path, {**LEVELS, "waste": (0.85, 20.0, 99)}))
    assert all(cell.may_be_on_front for cell in found.cells)


def test_a_cell_that_lacks_a_seed_is_named_and_not_compared(tmp_path: Path) -> None:
    root = storage(tmp_path / "s", statuses={("good", 2): "failed"})
    found = found_in(root)
    assert found.lacking == ("good",)
    assert all(cell.may_be_on_front for cell in found.cells)
    assert "they lack seeds: “good”" in analyze(root, only="cost", out=tmp_path).answers


def test_seconds_of_different_machines_are_said_to_be_so(tmp_path: Path) -> None:
    root = storage(tmp_path / "s")
    file = next((root / "runs").glob("0*1/environment.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "another"}))
    assert found_in(root).machines == ("host",)
    assert "Seconds hardly compare: trials differ in host" in analyze(root, only="cost", out=tmp_path).answers


def test_several_looks_and_sweeps_without_a_whole_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only cost: sweep 'digits' looks at 3, 6 seeds"):
        found_in(storage(tmp_path / "looks", looks=(3, 6)))
    statuses = {(cell, 0): "running" for cell in LEVELS}
    with pytest.raises(UserError, match="no cell of sweep 'digits' has finished all of its 6 seeds"):
        found_in(storage(tmp_path / "early", statuses=statuses))


def test_table_csv_and_figure_are_written(tmp_path: Path) -> None:
    root = storage(tmp_path / "s", {**LEVELS, "large": (0.95, 80.0, 900)})
    found = analyze(root, only="cost", out=tmp_path / "out")
    assert set(found.files) == {
        *(f"cost.{end}" for end in ("md", "csv")),
        *(f"plots/cost.{end}" for end in ("png", "svg")),
    }
    assert "May be on the front, 3 of 4: “alone”, “good”, “large”." in found.answers
    assert "Beaten by one that is better and costs less: “waste” (by “good”)." in found.answers
    rows = (tmp_path / "out" / "cost.csv").read_text().splitlines()
    assert rows[0].startswith("cell,n,seconds,parameters,value")
    assert len(rows) == 5
    assert not found.left_out

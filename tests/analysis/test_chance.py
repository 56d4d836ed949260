"""What the notes say of the sources of chance, and which of them matters most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_kd.analysis import analyze
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.notes import notes
from ray_kd.analysis.records import read_records
from ray_kd.config.errors import UserError
from tests.analysis.make_records import CONTROL, STRATEGIES, Strategy, make_records

TWO = {name: STRATEGIES[name] for name in ("student alone", "soft target")}
ALL = ["student", "teacher", "labels"]


def planned(root: Path, **more: Any) -> Comparison:
    """The comparison of records whose plan says more."""
    file = root / "sweeps" / "digits" / "plan.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    return compare_cells(read_records(root, "digits"))


def chance(cells: list[str], vary: list[str], overlap: float = 0.0, **fixed: str) -> dict[str, Any]:
    return {"vary": vary, "fixed": fixed, "overlap": overlap, "cells": cells}


def test_one_line_says_what_intervals_cover(tmp_path: Path) -> None:
    root = make_records(tmp_path, strategies=TWO, seeds=3, epochs=4)
    entry = chance([*TWO, CONTROL], ALL, teacher="its weights are given: r50.pt")
    (line,) = [note for note in notes(planned(root, chance=[entry])) if "intervals cover" in note]
    drawn, same = line.split("The same for all seeds")
    assert "initialisation" in drawn
    assert "labels" in drawn
    assert "teacher" not in drawn
    assert "its teacher (its weights are given: r50.pt)" in same
    assert "validate and test" in same
    assert "augmentation" in same
    assert not any("intervals cover" in note for note in notes(planned(root, chance=[])))


def test_splits_that_overlap_widen_the_intervals_and_the_notes_say_so(tmp_path: Path) -> None:
    root = make_records(tmp_path, strategies=TWO, seeds=5, epochs=4)
    plain = planned(root, chance=[chance([*TWO, CONTROL], ["student"])])
    wide = planned(root, chance=[chance([*TWO, CONTROL], ["student", "split"], overlap=0.6)])
    factor = ((1 / 5 + 0.6) / (1 / 5)) ** 0.5
    for before, after in zip(plain.cells, wide.cells, strict=True):
        assert after.best.half_width == pytest.approx(factor * before.best.half_width)
    assert not any("Nadeau" in note for note in notes(plain))
    assert sum("(1/n + 0.60)" in note for note in notes(wide)) == 1


def test_a_repeat_shows_the_noise_of_arithmetic_beside_that_of_seeds(tmp_path: Path) -> None:
    values = {("student alone", seed): 0.90 + 0.01 * seed for seed in range(4)}
    values |= {(CONTROL, seed): 0.90 + 0.01 * seed + (0.004 if seed % 2 else -0.004) for seed in range(4)}
    root = make_records(tmp_path, strategies=TWO, seeds=4, epochs=4, values=values)
    found = planned(root, repeats=[CONTROL])
    (repeat,) = found.repeats
    assert (repeat.cell, repeat.control, repeat.n) == ("student alone", CONTROL, 4)
    assert repeat.arithmetic == pytest.approx(0.004 / 2**0.5)
    assert repeat.seeds == pytest.approx(float(np.std([0.0, 0.01, 0.02, 0.03], ddof=1)))
    assert found.doublings == ()  # it does not train longer
    (line,) = [note for note in notes(found) if note.startswith("Noise")]
    assert "0.28 points" in line
    assert "1.29 points" in line
    assert any("Convergence was not checked" in note for note in notes(found))


def varied(tmp_path: Path, spreads: dict[str, float], seeds: int = 12) -> Path:
    """Records of a sweep with an axis ``vary``: the student's values have these spreads."""
    random, labels = np.random.default_rng(0), [*spreads, "all"]
    whole = sum(value**2 for value in spreads.values()) ** 0.5
    cells, values = {}, {}
    for label in labels:
        draws = random.normal(size=seeds)
        draws = (draws - draws.mean()) / draws.std(ddof=1)
        for strategy in ("alone", "taught"):
            cells[f"{label}, {strategy}"] = Strategy(("soft_target",) if strategy == "taught" else ())
            for seed, draw in enumerate(draws):
                gain = 0.01 if strategy == "taught" else 0.0
                values[f"{label}, {strategy}", seed] = 0.8 + gain + spreads.get(label, whole) * float(draw)
    root = make_records(
        tmp_path, strategies=cells, seeds=seeds, epochs=2, values=values, control=False, baseline=None
    )
    file = root / "sweeps" / "digits" / "plan.json"
    plan = json.loads(file.read_text())
    for trial in plan["trials"]:
        label, strategy = trial["cell"].split(", ")
        trial["axes"] = {"vary": label, "strategy": strategy}
    plan["chance"] = [
        chance([f"{label}, alone", f"{label}, taught"], [label] if label != "all" else list(spreads))
        for label in labels
    ]
    file.write_text(json.dumps(plan))
    return root


def test_the_source_with_the_largest_spread_is_named_where_it_is_told_apart(tmp_path: Path) -> None:
    root = varied(tmp_path, {"student": 0.002, "teacher": 0.0, "labels": 0.02})
    found = analyze(root, only="variance", out=tmp_path / "out")
    lines = found.answers.splitlines()
    assert "alone: “labels” has the largest spread" in lines[0]
    assert "lies above those of all others" in lines[0]
    rows = [
        [entry.strip() for entry in line.strip("|").split("|")] for line in lines if line.startswith("| ")
    ]
    table = {(row[0], row[1]): row for row in rows}
    assert table["taught", "labels"][2:4] == ["12", "2.00"]
    assert table["alone", "student"][3] == "0.20"
    assert table["alone", "teacher"][3:5] == ["0.00", "\N{EN DASH}"]
    assert (table["alone", "labels"][5], table["alone", "all"][5]) == ("99 %", "100 %")
    assert {one[0] for one in table} >= {"alone", "taught", "taught \N{MINUS SIGN} alone"}
    assert {"variance.md", "variance.csv", "plots/variance.png", "plots/variance.svg"} == set(found.files)


def test_sources_that_are_not_told_apart_are_said_to_be_so(tmp_path: Path) -> None:
    root = varied(tmp_path, {"student": 0.010, "labels": 0.011})
    first = analyze(root, only="variance", out=tmp_path / "out").answers.splitlines()[0]
    assert "“labels” has the largest spread" in first
    assert "meets that of “student”" in first


def test_a_sweep_without_the_axis_has_no_components(tmp_path: Path) -> None:
    root = make_records(tmp_path, strategies=TWO, seeds=2, epochs=4)
    with pytest.raises(UserError, match="no axis 'vary'"):
        analyze(root, only="variance")

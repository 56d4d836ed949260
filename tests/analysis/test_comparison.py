"""Comparing cells: what enters, what does not, and what the answer says."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.convergence import doubling_gain
from ray_kd.analysis.headline import headline, notes
from ray_kd.analysis.records import Records, read_records
from ray_kd.config.errors import UserError
from tests.analysis.make_records import CONTROL, STRATEGIES, make_records

TWO = {name: STRATEGIES[name] for name in ("student alone", "soft target")}


def compared(root: Path, values: dict[str, list[float]], **changes: object) -> Comparison:
    """Cells with exactly these test figures, seed by seed."""
    exact = {(cell, seed): v for cell, row in values.items() for seed, v in enumerate(row)}
    cells = {cell: STRATEGIES[cell] for cell in values}
    options = {"values": exact, "strategies": cells, "epochs": 4, "control": False, **changes}
    options.setdefault("seeds", max(len(row) for row in values.values()))
    return compare_cells(read_records(make_records(root / "results", **options), "digits"))  # type: ignore[arg-type]


def numbers(comparison: Comparison) -> list[object]:
    return [(cell.name, cell.best, cell.last, cell.versus) for cell in comparison.cells]


def test_cells_stand_in_the_order_of_the_plan(comparison: Comparison) -> None:
    assert [cell.name for cell in comparison.cells] == list(STRATEGIES)
    assert comparison.tests == 8


def test_figures_equal_scipy_on_the_recorded_numbers(comparison: Comparison, records: Records) -> None:
    trials = records.trials[records.trials["phase"] == "compare"]
    wide = {
        name: trials[trials["cell"] == name]["best_test_top1"].to_numpy(float)
        for name in ("student alone", "adaptive by path")
    }
    expected = reference.ttest_rel(wide["adaptive by path"], wide["student alone"])
    cell = next(cell for cell in comparison.cells if cell.name == "adaptive by path")
    assert cell.versus is not None
    assert cell.best.mean == pytest.approx(wide["adaptive by path"].mean(), rel=1e-12)
    assert cell.versus.p == pytest.approx(expected.pvalue, rel=1e-9)
    p = [other.versus.p for other in comparison.cells if other.versus]
    assert cell.versus.holm == pytest.approx(min(1.0, 8 * cell.versus.p))
    assert min(p) == cell.versus.p  # the smallest of eight: Holm multiplies it by eight


def test_the_primary_figure_is_of_the_best_weights_and_last_stands_beside_it(
    comparison: Comparison, records: Records
) -> None:
    rows = records.trials[(records.trials["cell"] == "logits") & (records.trials["phase"] == "compare")]
    cell = next(cell for cell in comparison.cells if cell.name == "logits")
    assert cell.best.mean == pytest.approx(rows["best_test_top1"].mean())
    assert cell.last.mean == pytest.approx(rows["last_test_top1"].mean())
    assert cell.best.mean != cell.last.mean


@pytest.mark.parametrize("status", ["failed", "stopped", "blocked", "unfinished", "running", "missing"])
def test_only_finished_trials_enter(tmp_path: Path, status: str) -> None:
    """A stopped trial with a test figure of 1.0 in its summary changes nothing."""
    values = {"student alone": [0.8, 0.82, 0.81, 0.80], "soft target": [0.85, 0.88, 0.87, 1.0]}
    troubled = compared(tmp_path / "a", values, statuses={("soft target", 3): status})
    clean = compared(tmp_path / "b", {**values, "soft target": values["soft target"][:3]}, seeds=4)
    cell = troubled.cells[1]
    assert (cell.n, cell.planned, cell.statuses) == (3, 4, {"finished": 3, status: 1})
    assert cell.best.mean == pytest.approx(np.mean([0.85, 0.88, 0.87]))
    assert cell.versus is not None
    assert cell.versus.difference.n == 3
    expected = reference.ttest_rel([0.85, 0.88, 0.87], [0.8, 0.82, 0.81]).pvalue
    assert cell.versus.p == pytest.approx(expected)
    assert clean.cells[0].best == troubled.cells[0].best
    assert any(f"3 of 4 trials count; 1 {status}" in note for note in notes(troubled))


def test_search_and_control_trials_never_enter(tmp_path: Path) -> None:
    plain = make_records(tmp_path / "plain", strategies=TWO, epochs=4, control=False)
    both = make_records(tmp_path / "both", strategies=TWO, epochs=4, control=True, search=5)
    one, other = (compare_cells(read_records(root, "digits")) for root in (plain, both))
    assert numbers(one) == numbers(other)
    assert (one.searched, other.searched) == (0, 5)
    assert CONTROL not in [cell.name for cell in other.cells]


def test_the_teacher_is_in_the_notes_and_in_no_test(comparison: Comparison) -> None:
    assert comparison.teachers == (("small_cnn, 4,242 parameters", pytest.approx(0.98, abs=0.02)),)
    assert any(note.startswith("Teacher (small_cnn, 4,242 parameters): 9") for note in notes(comparison))
    assert "teacher" not in [cell.name for cell in comparison.cells]


def test_of_a_teacher_that_was_taught_the_notes_say_so(records: Records) -> None:
    trials = records.trials.copy()
    trials.loc[trials["phase"] == "teacher", "paths"] = "soft_target, nst"
    taught = compare_cells(dataclasses.replace(records, trials=trials))
    assert [model for model, _ in taught.teachers] == [
        "small_cnn, 4,242 parameters, taught along soft_target, nst"
    ]


def test_the_order_of_the_rows_changes_nothing(comparison: Comparison, records: Records) -> None:
    for seed in range(3):
        shuffled = records.trials.sample(frac=1.0, random_state=seed)
        again = compare_cells(dataclasses.replace(records, trials=shuffled))
        assert numbers(again) == numbers(comparison)


def test_the_order_of_the_cells_changes_no_number(comparison: Comparison, records: Records) -> None:
    assert records.plan is not None
    backwards = dataclasses.replace(records.plan, cells=tuple(reversed(records.plan.cells)))
    again = compare_cells(records, backwards)
    assert numbers(again) == list(reversed(numbers(comparison)))


def test_trials_of_one_seed_count_once(records: Records, comparison: Comparison) -> None:
    """Rows that repeat (a run in two sweeps, say) give no false certainty."""
    twice = dataclasses.replace(records, trials=pd.concat([records.trials, records.trials]))
    assert [cell.versus for cell in compare_cells(twice).cells] == [cell.versus for cell in comparison.cells]


def test_one_seed_has_means_and_no_interval(tmp_path: Path) -> None:
    found = compared(tmp_path, {"student alone": [0.8], "soft target": [0.9]})
    cell = found.cells[1]
    assert cell.best.mean == 0.9
    assert math.isnan(cell.best.low)
    assert cell.versus is not None
    assert math.isnan(cell.versus.holm)
    assert "cannot be tested with 1 common seed" in headline(found)


@pytest.mark.parametrize("baseline", [None, "student alone"])
def test_without_a_baseline_there_is_no_test(tmp_path: Path, baseline: str | None) -> None:
    values = {"student alone": [0.8, 0.81], "soft target": [0.9, 0.91]}
    failed = {("student alone", seed): "failed" for seed in (0, 1)}
    found = compared(tmp_path, values, statuses=failed, baseline=baseline)
    assert found.baseline is None
    assert all(cell.versus is None for cell in found.cells)
    assert "nothing was tested" in headline(found)


def test_a_metric_nobody_recorded_names_the_nearest(records: Records) -> None:
    assert records.plan is not None
    with pytest.raises(UserError, match=r"unknown metric 'top2'\. Did you mean 'top"):
        compare_cells(records, dataclasses.replace(records.plan, metric="top2"))


def test_a_loss_is_better_when_smaller_and_is_no_percentage(records: Records) -> None:
    assert records.plan is not None
    found = compare_cells(records, dataclasses.replace(records.plan, metric="loss", mode="min"))
    assert found.best is not None
    assert found.best.best.mean == min(cell.best.mean for cell in found.cells)
    assert not found.metric.rate
    assert "below" in headline(found)
    assert "%" not in headline(found).replace("95 % CI", "")


def test_the_answer_names_a_significant_winner(tmp_path: Path) -> None:
    better = [0.85, 0.86, 0.84, 0.87, 0.85]
    base = [0.80, 0.805, 0.80, 0.81, 0.80]
    found = compared(tmp_path, {"student alone": base, "soft target": better})
    assert "“soft target” had the best mean, 85.40 % test top-1 over 5 seeds" in headline(found)
    assert "a significant difference" in headline(found)
    assert "5.10 points" in headline(found)


def test_the_answer_does_not_oversell_noise(tmp_path: Path) -> None:
    found = compared(tmp_path, {"student alone": [0.80, 0.90, 0.70], "soft target": [0.90, 0.80, 0.73]})
    assert "not significant" in headline(found)
    assert "No strategy differs significantly from “student alone”." in headline(found)


def test_the_answer_says_when_nothing_beats_the_student_alone(tmp_path: Path) -> None:
    worse = {"soft target": [0.60, 0.61, 0.62], "NST": [0.79, 0.81, 0.77]}
    found = compared(tmp_path, {"student alone": [0.80, 0.805, 0.81], **worse})
    assert headline(found).startswith("No strategy had a better mean than “student alone”")
    assert "Significantly worse than “student alone”: “soft target”." in headline(found)


def test_equal_figures_have_p_one_and_a_note(tmp_path: Path) -> None:
    base = [0.80, 0.81, 0.82]
    found = compared(tmp_path, {"student alone": base, "soft target": base})
    assert found.cells[1].versus is not None
    assert found.cells[1].versus.holm == 1.0
    assert any("the difference is the same on every seed" in note for note in notes(found))


def test_before_anything_finished_there_is_no_answer(tmp_path: Path) -> None:
    running = {(cell, seed): "running" for cell in TWO for seed in range(2)}
    root = make_records(tmp_path, strategies=TWO, seeds=2, epochs=4, statuses=running)
    assert headline(compare_cells(read_records(root, "digits"))).startswith("No result yet")


def test_doubling_gain_is_over_common_seeds_and_signed_by_the_mode() -> None:
    gain = doubling_gain({0: 0.90, 1: 0.92, 9: 0.1}, {0: 0.91, 1: 0.94, 8: 0.1})
    assert (gain.n, gain.mean) == (2, pytest.approx(0.015))
    assert doubling_gain({0: 0.5}, {0: 0.4}, mode="min").mean == pytest.approx(0.1)


@pytest.mark.parametrize(("gain", "converged"), [(0.004, True), (0.006, False), (-0.1, True)])
def test_controls_say_whether_training_was_long_enough(
    records: Records, gain: float, converged: bool
) -> None:
    trials = records.trials.copy()
    for seed in range(5):
        alone = (trials["cell"] == "student alone") & (trials["seed"] == seed)
        longer = (trials["cell"] == CONTROL) & (trials["seed"] == seed)
        trials.loc[longer, "best_val_top1"] = float(trials.loc[alone, "best_val_top1"].iloc[0]) + gain
    found = compare_cells(dataclasses.replace(records, trials=trials))
    (doubling,) = found.doublings
    assert (doubling.cell, doubling.epochs, doubling.control_epochs) == ("student alone", 30, 60)
    assert doubling.gain.mean == pytest.approx(gain)
    assert doubling.converged is converged
    assert ("too short to converge" in headline(found)) is not converged
    assert any(("NOT converged" in note) is not converged for note in notes(found) if "Convergence" in note)


def test_without_controls_the_notes_say_that_nobody_checked(tmp_path: Path) -> None:
    found = compared(tmp_path, {"student alone": [0.8, 0.81], "soft target": [0.9, 0.92]})
    assert any("Convergence was not checked" in note for note in notes(found))


def test_a_table_of_mixed_arithmetic_says_so(records: Records) -> None:
    alike = " ".join(notes(compare_cells(records)))
    assert "arithmetic" not in alike
    trials = records.trials.copy()
    trials.loc[trials["seed"] == 0, "precision"] = "bfloat16"
    trials.loc[trials["seed"] != 0, "precision"] = "float32"
    mixed = " ".join(notes(compare_cells(dataclasses.replace(records, trials=trials))))
    count = ((trials["phase"] == "compare") & (trials["status"] == "finished") & (trials["seed"] == 0)).sum()
    assert f"Trials ran in different precisions ({count} in bfloat16, " in mixed

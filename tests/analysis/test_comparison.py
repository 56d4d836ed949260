"""Comparing cells: what enters, what does not, and what the answer says."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from ray_kd.analysis.comparison import Cell, Comparison, compare_cells
from ray_kd.analysis.convergence import Converged, doubling_gain
from ray_kd.analysis.headline import headline
from ray_kd.analysis.notes import notes
from ray_kd.analysis.records import Records, read_records
from ray_kd.analysis.verdicts import Versus
from ray_kd.config.errors import UserError
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Judged, Verdict
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
    return [(cell.name, cell.best, cell.last, judged(cell)) for cell in comparison.cells]


def judged(cell: Cell) -> Judged | None:
    return None if cell.versus is None else cell.versus.judged


def short_side(shown: Interval) -> float:
    """Student's half-width: skewed differences lengthen the other side."""
    return min(shown.high - shown.mean, shown.mean - shown.low)


def pick(comparison: Comparison, name: str) -> tuple[Cell, Versus]:
    """The cell of that name, and what was found of it."""
    cell = next(cell for cell in comparison.cells if cell.name == name)
    assert cell.versus is not None
    return cell, cell.versus


def test_cells_stand_in_the_order_of_the_plan(comparison: Comparison) -> None:
    assert [cell.name for cell in comparison.cells] == list(STRATEGIES)
    assert [cell.name for cell in comparison.compared] == list(STRATEGIES)[1:]


def test_figures_equal_scipy_on_the_recorded_numbers(comparison: Comparison, records: Records) -> None:
    trials = records.trials[records.trials["phase"] == "compare"]
    wide = {
        name: trials[trials["cell"] == name]["best_test_top1"].to_numpy(float)
        for name in ("student alone", "adaptive by path")
    }
    test = reference.ttest_rel(wide["adaptive by path"], wide["student alone"])
    cell, versus = pick(comparison, "adaptive by path")
    assert cell.best.mean == pytest.approx(wide["adaptive by path"].mean(), rel=1e-12)
    assert versus.judged.p >= min(1, 8 * test.pvalue) * (1 - 1e-9)  # eight strategies, one look
    bounds = test.confidence_interval(1 - 0.05 / 8)
    assert short_side(versus.difference) == pytest.approx((bounds.high - bounds.low) / 2)
    assert versus.difference.low <= bounds.low * (1 + 1e-9)
    assert versus.level == pytest.approx(1 - 0.05 / 8)


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
    """A stopped trial with a test figure of 1.0 changes nothing, and a lost seed leaves no verdict."""
    values = {"student alone": [0.8, 0.82, 0.81, 0.80], "soft target": [0.85, 0.88, 0.87, 1.0]}
    troubled = compared(tmp_path / "a", values, statuses={("soft target", 3): status})
    cell, versus = pick(troubled, "soft target")
    assert (cell.n, cell.planned, cell.statuses) == (3, 4, {"finished": 3, status: 1})
    assert cell.best.mean == pytest.approx(np.mean([0.85, 0.88, 0.87]))
    assert versus.difference.mean == pytest.approx(np.mean([0.05, 0.06, 0.06]))
    assert math.isnan(versus.difference.low)
    assert math.isnan(versus.judged.p)
    text = " ".join(notes(troubled))
    assert f"3 of 4 trials count; 1 {status}" in text
    lost = status in ("failed", "stopped", "blocked")
    assert versus.verdict is (Verdict.NONE if lost else Verdict.OPEN)
    assert versus.judged.look == (4 if lost else 0)
    assert ("on 1 of the 4 seeds of the look (25 %)" in text) is lost
    assert ("No verdict yet beside “student alone”" in headline(troubled)) is not lost


def test_search_and_control_trials_never_enter(tmp_path: Path) -> None:
    plain = make_records(tmp_path / "plain", strategies=TWO, epochs=4, control=False)
    both = make_records(tmp_path / "both", strategies=TWO, epochs=4, control=True, search=5)
    one, other = (compare_cells(read_records(root, "digits")) for root in (plain, both))
    assert numbers(one) == numbers(other)
    assert (one.searched, other.searched) == (0, 5)
    assert CONTROL not in [cell.name for cell in other.cells]


def test_the_teacher_is_in_the_notes_and_in_no_test(comparison: Comparison) -> None:
    (teacher,) = comparison.teachers
    assert (teacher.model, teacher.value) == ("small_cnn, 4,242 parameters", pytest.approx(0.98, abs=0.02))
    assert any(note.startswith("Teacher (small_cnn, 4,242 parameters): 9") for note in notes(comparison))
    assert "teacher" not in [cell.name for cell in comparison.cells]


def test_two_teachers_of_one_model_are_named_apart(records: Records) -> None:
    """One taught with wrong labels, say: a mean over both would be a figure of neither."""
    trials = records.trials.copy()
    right = trials[trials["phase"] == "teacher"].assign(name="digits: a, seed 1-b, seed 0-right")
    wrong = right.assign(name="digits: a, seed 1-b, seed 0-wrong", best_test_top1=0.1)
    rest = trials[trials["phase"] != "teacher"]
    both = dataclasses.replace(records, trials=pd.concat([rest, right, wrong], ignore_index=True))
    said = [note for note in notes(compare_cells(both)) if note.startswith("Teacher")]
    assert [note.split(" (")[0] for note in said] == ["Teacher “right”", "Teacher “wrong”"]
    assert ": 10.00 % test top-1." in said[1]


def test_of_a_teacher_that_was_taught_the_notes_say_so(records: Records) -> None:
    trials = records.trials.copy()
    trials.loc[trials["phase"] == "teacher", "paths"] = "soft_target, nst"
    taught = compare_cells(dataclasses.replace(records, trials=trials))
    assert [teacher.model for teacher in taught.teachers] == [
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
    assert numbers(compare_cells(twice)) == numbers(comparison)


def test_one_seed_has_means_and_no_interval(tmp_path: Path) -> None:
    found = compared(tmp_path, {"student alone": [0.8], "soft target": [0.9]})
    cell, versus = pick(found, "soft target")
    assert cell.best.mean == 0.9
    assert math.isnan(cell.best.low)
    assert math.isnan(versus.difference.low)
    assert versus.verdict is Verdict.OPEN
    assert "Beside “student alone”, “soft target” is open." in headline(found)


@pytest.mark.parametrize("baseline", [None, "student alone"])
def test_without_a_baseline_nothing_is_compared(tmp_path: Path, baseline: str | None) -> None:
    values = {"student alone": [0.8, 0.81], "soft target": [0.9, 0.91]}
    failed = {("student alone", seed): "failed" for seed in (0, 1)}
    found = compared(tmp_path, values, statuses=failed, baseline=baseline)
    assert found.baseline is None
    assert not found.compared
    assert "No strategy was compared with another" in headline(found)


def test_a_metric_nobody_recorded_names_the_nearest(records: Records) -> None:
    assert records.plan is not None
    with pytest.raises(UserError, match=r"unknown metric 'top2'\. Did you mean 'top"):
        compare_cells(records, dataclasses.replace(records.plan, metric="top2"))


def test_a_loss_is_better_when_smaller_and_is_no_percentage(records: Records) -> None:
    assert records.plan is not None
    found = compare_cells(records, dataclasses.replace(records.plan, metric="loss", mode="min"))
    assert not found.metric.rate
    assert "%" not in headline(found)
    pairs = [(cell, cell.versus) for cell in found.compared if cell.versus]
    decided = [pair for pair in pairs if pair[1].verdict.decided]
    assert decided
    assert all((v.verdict is Verdict.BETTER) is (v.difference.high < 0) for _, v in decided)


def test_the_answer_names_what_is_better(tmp_path: Path) -> None:
    better = [0.85, 0.86, 0.84, 0.87, 0.85]
    base = [0.80, 0.805, 0.80, 0.81, 0.80]
    found = compared(tmp_path, {"student alone": base, "soft target": better})
    assert headline(found) == "Beside “student alone”, “soft target” is better."
    _, versus = pick(found, "soft target")
    differences = np.array(better) - np.array(base)
    half = reference.t.ppf(0.975, 4) * differences.std(ddof=1) / math.sqrt(5)
    assert short_side(versus.difference) == pytest.approx(half)


def test_the_answer_does_not_oversell_noise(tmp_path: Path) -> None:
    found = compared(tmp_path, {"student alone": [0.80, 0.90, 0.70], "soft target": [0.90, 0.80, 0.73]})
    said = "Beside “student alone”, “soft target” is open."
    assert headline(found) == said


def test_the_answer_says_what_is_worse(tmp_path: Path) -> None:
    worse = {"soft target": [0.60, 0.61, 0.62], "NST": [0.79, 0.81, 0.77]}
    found = compared(tmp_path, {"student alone": [0.80, 0.805, 0.81], **worse})
    assert headline(found).startswith("None of 2 strategies is shown to be better than “student alone”.")
    assert "1 is worse: “soft target”. 1 is open: “NST”." in headline(found)


def test_equal_figures_are_open_and_have_a_note(tmp_path: Path) -> None:
    base = [0.80, 0.81, 0.82]
    found = compared(tmp_path, {"student alone": base, "soft target": base})
    _, versus = pick(found, "soft target")
    assert (versus.verdict, versus.judged.p) == (Verdict.OPEN, 1.0)
    assert any("the difference is the same on every seed" in note for note in notes(found))


def test_before_anything_finished_there_is_no_answer(tmp_path: Path) -> None:
    running = {(cell, seed): "running" for cell in TWO for seed in range(2)}
    root = make_records(tmp_path, strategies=TWO, seeds=2, epochs=4, statuses=running)
    assert headline(compare_cells(read_records(root, "digits"))).startswith("No result yet")


def test_doubling_gain_is_over_common_seeds_and_signed_by_the_mode() -> None:
    gain = doubling_gain({0: 0.90, 1: 0.92, 9: 0.1}, {0: 0.91, 1: 0.94, 8: 0.1})
    assert (gain.n, gain.mean) == (2, pytest.approx(0.015))
    assert doubling_gain({0: 0.5}, {0: 0.4}, mode="min").mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("gain", "spread", "converged"),
    [
        (0.003, 0.001, Converged.YES),
        (0.004, 0.010, Converged.OPEN),
        (0.006, 0.010, Converged.OPEN),
        (0.020, 0.001, Converged.NO),
        (-0.1, 0.001, Converged.YES),
    ],
)
def test_controls_say_whether_training_was_long_enough(
    records: Records, gain: float, spread: float, converged: Converged
) -> None:
    """By the interval of the gain: a small mean of scattered gains does not show that training converged."""
    trials = records.trials.copy()
    for seed in range(5):
        alone = (trials["cell"] == "student alone") & (trials["seed"] == seed)
        longer = (trials["cell"] == CONTROL) & (trials["seed"] == seed)
        trials.loc[longer, "best_val_top1"] = (
            float(trials.loc[alone, "best_val_top1"].iloc[0]) + gain + spread * (seed - 2)
        )
    found = compare_cells(dataclasses.replace(records, trials=trials))
    (doubling,) = found.doublings
    assert (doubling.cell, doubling.epochs, doubling.control_epochs) == ("student alone", 30, 60)
    assert doubling.gain.mean == pytest.approx(gain)
    assert doubling.converged is converged
    assert ("too short to converge" in headline(found)) is (converged is Converged.NO)
    (note,) = [note for note in notes(found) if note.startswith("Convergence")]
    words = {Converged.YES: ": converged", Converged.NO: "NOT converged", Converged.OPEN: "cannot tell"}
    assert {one for one, text in words.items() if text in note} == {converged}


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

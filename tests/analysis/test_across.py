"""Several tasks in one sweep: ranks, and gains as a share of the gap, against numbers by hand."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ray_kd.analysis.across import Across
from ray_kd.analysis.across_table import across_csv, across_markdown, across_terminal
from ray_kd.analysis.pipeline import analyze
from ray_kd.analysis.plot_across import across_picture
from ray_kd.analysis.records import Records, read_records
from ray_kd.analysis.sweep_results import sweep_results
from ray_kd.statistics.bootstrap import mean_of, ratio
from tests.analysis.make_records import make_tasks

TEST = {
    "classification": {
        "teacher": [0.98],
        "student alone": [0.90, 0.92, 0.91],
        "equal": [0.93, 0.95, 0.92],
        "utility": [0.94, 0.95, 0.96],
    },
    "segmentation": {
        "teacher": [0.60],
        "student alone": [0.30, 0.34, 0.32],
        "equal": [0.28, 0.35, 0.30],
        "utility": [0.40, 0.44, 0.45],
    },
    "detection": {  # the students vary more than the teacher is ahead
        "teacher": [0.31],
        "student alone": [0.20, 0.40, 0.30],
        "equal": [0.30, 0.42, 0.33],
        "utility": [0.25, 0.41, 0.36],
    },
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return read_records(make_tasks(tmp_path_factory.mktemp("tasks"), TEST), "tasks")


@pytest.fixture(scope="module")
def across(records: Records) -> Across:
    found = sweep_results(records).across
    assert found is not None
    return found


def test_each_task_is_compared_by_its_own_metric_under_names_that_pair(records: Records) -> None:
    found = sweep_results(records)
    metrics = {task: comparison.metric.name for task, comparison in found.comparisons.items()}
    assert metrics == {"classification": "top1", "segmentation": "miou", "detection": "map"}
    for task, comparison in found.comparisons.items():
        assert comparison.plan.baseline == "student alone"
        assert {cell.name: list(cell.seeds.values()) for cell in comparison.cells} == {
            name: values for name, values in TEST[task].items() if name != "teacher"
        }
        assert [value for _, value in comparison.teachers] == TEST[task]["teacher"]
        assert [doubling.cell for doubling in comparison.doublings] == ["student alone"]
        assert set(found.parts[task].epochs["cell"]) >= set(TEST[task])


def test_gain_is_a_ratio_of_means_with_all_resamples_of_the_pairs(across: Across) -> None:
    for name, task in itertools.product(("equal", "utility"), ("classification", "segmentation")):
        alone, teacher = np.array(TEST[task]["student alone"]), TEST[task]["teacher"][0]
        gain = next(one for one in across.standings if one.name == name).gains[task]
        above, below = np.array(TEST[task][name]) - alone, teacher - alone
        assert gain.value == pytest.approx(above.mean() / below.mean())
        rows = [list(row) for row in itertools.product(range(3), repeat=3)]
        every = sorted(above[row].mean() / below[row].mean() for row in rows)
        assert (gain.low, gain.high) == pytest.approx((every[0], every[-1]))  # 1 of 27 is more than 2.5 %


def test_a_gap_that_may_be_zero_defines_no_gain(across: Across) -> None:
    gap = across.gaps[2]
    assert gap.size.mean == pytest.approx(0.01)
    assert gap.size.low < 0 < gap.size.high
    assert gap.trouble is not None
    assert "includes 0" in gap.trouble
    assert all("detection" not in standing.gains for standing in across.standings)
    assert across_markdown(across).count("undefined") == 4  # three gains, and the note on the gap
    assert not across.gaps[0].trouble
    assert not across.gaps[1].trouble


def test_ranks_are_means_over_tasks_and_a_mean_gain_spans_the_defined_ones(across: Across) -> None:
    ranks = {standing.name: standing.mean_rank for standing in across.standings}
    # student alone: 3, 2, 3; equal: 2, 3, 1; utility: 1, 1, 2
    assert ranks == pytest.approx({"student alone": 8 / 3, "equal": 2, "utility": 4 / 3})
    assert across.best is not None
    assert across.best.name == "utility"
    mean = across.best.mean_gain
    gains = across.best.gains
    assert mean.value == pytest.approx((gains["classification"].value + gains["segmentation"].value) / 2)
    assert min(gain.low for gain in gains.values()) < mean.low < mean.value
    assert mean.value < mean.high < max(gain.high for gain in gains.values())


def test_a_strategy_that_a_task_lacks_has_no_rank_and_leaves_the_others_theirs(tmp_path: Path) -> None:
    test = {task: dict(values) for task, values in TEST.items()}
    del test["segmentation"]["equal"]
    found = sweep_results(read_records(make_tasks(tmp_path, test), "tasks")).across
    assert found is not None
    standings = {standing.name: standing for standing in found.standings}
    assert math.isnan(standings["equal"].mean_rank)
    assert not standings["equal"].mean_gain.known
    assert standings["utility"].ranks == {"classification": 1, "segmentation": 1, "detection": 2 - 1}


def test_a_task_whose_students_have_not_finished_waits(tmp_path: Path) -> None:
    root = make_tasks(tmp_path, TEST)
    for trial in json.loads((root / "sweeps" / "tasks" / "plan.json").read_text())["trials"]:
        if trial["task"] == "detection":
            shutil.rmtree(root / "runs" / trial["identity"])
    found = sweep_results(read_records(root, "tasks")).across
    assert found is not None
    assert found.gaps[2].trouble == "the baseline has no finished trial"
    assert found.best is None
    assert "No result across tasks yet" in across_markdown(found)


def test_analyze_writes_a_table_for_each_task_and_one_across(tmp_path: Path) -> None:
    found = analyze(make_tasks(tmp_path, TEST), "tasks")
    assert {"table.md", "table.csv", "report.html", "plots/across.png"} <= set(found.files)
    for task in TEST:
        assert {f"{task}/table.md", f"{task}/table.csv", f"{task}/plots/comparison.png"} <= set(found.files)
    page = Path(found.files["report.html"]).read_text()
    assert all(f"{task.capitalize()}: Result" in page for task in TEST)
    assert found.headline in page
    assert "“utility” has the best mean rank: 1.3 of 3" in found.headline
    screen = Console(width=80, file=io.StringIO())
    screen.print(found.table)
    assert max(len(line.rstrip()) for line in screen.file.getvalue().splitlines()) <= 80  # type: ignore[attr-defined]
    assert "ACROSS TASKS" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_the_csv_holds_every_number(across: Across) -> None:
    rows = {(row["strategy"], row["task"]): row for row in csv.DictReader(io.StringIO(across_csv(across)))}
    assert len(rows) == 3 * 4
    row = rows["utility", "segmentation"]
    assert float(row["gain"]) == pytest.approx((0.43 - 0.32) / (0.60 - 0.32))
    assert (row["metric"], float(row["rank"]), float(row["teacher"])) == ("miou", 1.0, 0.60)
    assert rows["utility", "detection"]["gain"] == ""
    assert float(rows["utility", "all"]["rank"]) == pytest.approx(4 / 3)


def test_no_gap_no_picture(records: Records, tmp_path: Path) -> None:
    found = sweep_results(records).across
    assert found is not None
    assert across_picture(found) is not None
    test = {task: {**values, "teacher": []} for task, values in TEST.items()}
    without = sweep_results(read_records(make_tasks(tmp_path, test), "tasks")).across
    assert without is not None
    assert across_picture(without) is None
    assert all("no finished run of a teacher" in str(gap.trouble) for gap in without.gaps)
    screen = Console(width=80, file=io.StringIO())
    screen.print(across_terminal(without))


@pytest.mark.parametrize("n", [2, 7])
def test_the_interval_of_a_constant_ratio_is_a_point_and_that_of_noise_holds_it(n: int) -> None:
    below = np.linspace(1, 2, n)
    same, _ = ratio(list(0.5 * below), list(below))
    assert (same.value, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))
    noisy, resampled = ratio(list(0.5 * below + np.linspace(-0.2, 0.2, n)), list(below))
    assert noisy.low < noisy.value < noisy.high
    tail = np.mean(resampled < noisy.low), np.mean(resampled > noisy.high)
    assert max(tail) <= 0.025
    both = mean_of([(noisy, resampled), (same, np.full(4, 0.5))])
    assert both.value == pytest.approx((noisy.value + 0.5) / 2)


def test_one_task_is_as_it_was(tmp_path: Path) -> None:
    """A sweep of one task whose plan says ``monitor`` gets its task's metric, and nothing across."""
    root = make_tasks(tmp_path, {"segmentation": TEST["segmentation"]})
    found = analyze(root, "tasks")
    assert found.across is None
    assert found.comparison.metric.name == "miou"
    assert found.comparison.plan.baseline == "segmentation, student alone"
    plan = json.loads((root / "sweeps" / "tasks" / "plan.json").read_text())
    assert [cell.name for cell in found.comparison.cells] == plan["cells"][:3]

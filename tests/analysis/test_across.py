"""Several tasks in one sweep: ranks, and gains as a share of the gap, against numbers by hand."""

from __future__ import annotations

import csv
import dataclasses
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
from ray_kd.analysis.across_table import across_csv, across_headline, across_markdown, across_terminal
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.pipeline import analyze
from ray_kd.analysis.plot_across import across_picture
from ray_kd.analysis.records import Records, read_records
from ray_kd.analysis.sweep_results import sweep_results
from ray_kd.statistics.looks import Verdict
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
        assert [teacher.value for teacher in comparison.teachers] == TEST[task]["teacher"]
        assert [doubling.cell for doubling in comparison.doublings] == ["student alone"]
        assert set(found.parts[task].epochs["cell"]) >= set(TEST[task])


def test_gain_is_a_ratio_of_means_whose_interval_excludes_0_where_the_verdict_does(across: Across) -> None:
    for name, task in itertools.product(("equal", "utility"), ("classification", "segmentation")):
        alone, teacher = np.array(TEST[task]["student alone"]), TEST[task]["teacher"][0]
        standing = next(one for one in across.standings if one.name == name)
        gain, versus = standing.gains[task], standing.cells[task].versus
        assert gain.mean == pytest.approx(
            (np.array(TEST[task][name]) - alone).mean() / (teacher - alone.mean())
        )
        assert versus is not None
        if not math.isnan(gain.low):
            assert gain.low < gain.mean < gain.high
            assert versus.verdict.decided is not (gain.low <= 0 <= gain.high)


def test_teachers_of_their_own_are_paired_by_seed_and_widen_the_gap(tmp_path: Path) -> None:
    """Teachers vary with their students: by seed the gap is the same, and known better than its mean."""
    alone = TEST["classification"]["student alone"]
    test = {"classification": {**TEST["classification"], "teacher": [value + 0.06 for value in alone]}}
    test["segmentation"] = {**TEST["segmentation"], "teacher": [0.60, 0.45, 0.75]}
    root = make_tasks(tmp_path, test)
    file = root / "sweeps/tasks/plan.json"
    plan = json.loads(file.read_text())
    for trial in plan["trials"]:
        place = 3 * list(test).index(trial["task"]) + trial["seed"]
        trial["teachers"] = [plan["teachers"][place]]
    file.write_text(json.dumps(plan))
    found = sweep_results(read_records(root, "tasks")).across
    assert found is not None
    easy, hard = found.gaps
    assert easy.own
    assert hard.own
    assert easy.size.half_width == pytest.approx(0, abs=1e-9)
    students = TEST["segmentation"]["student alone"]
    gaps = [teacher - student for teacher, student in zip((0.60, 0.45, 0.75), students, strict=True)]
    assert hard.size.half_width == pytest.approx(4.302653 * np.std(gaps, ddof=1) / math.sqrt(3), rel=1e-5)
    assert "One teacher serves all seeds" not in across_markdown(found)


def test_two_seeds_decide_nothing_and_crown_nothing(tmp_path: Path) -> None:
    test = {task: {name: row[:2] for name, row in rows.items()} for task, rows in TEST.items()}
    test["segmentation"]["student alone"] = [0.30, 0.301]  # so that the gap itself is known
    found = sweep_results(read_records(make_tasks(tmp_path, test), "tasks")).across
    assert found is not None
    others = [standing for standing in found.standings if standing.name != "student alone"]
    gains = [gain for standing in others for gain in standing.gains.values()]
    assert gains
    assert all(math.isnan(gain.low) or gain.low < 0 < gain.high for gain in gains)
    nothing = "No strategy is shown to be better or worse than “student alone” in any of 3 tasks"
    assert across_headline(found).startswith(nothing)
    assert "**" not in across_markdown(found)


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
    utility = next(one for one in across.standings if one.name == "utility")
    gains = [utility.gains[task].mean for task in ("classification", "segmentation")]
    assert utility.mean_gain == pytest.approx(sum(gains) / 2)


def test_verdicts_are_counted_over_tasks_and_nothing_is_crowned(tmp_path: Path) -> None:
    test = {task: dict(rows) for task, rows in TEST.items()}
    test["classification"]["utility"] = [0.930, 0.951, 0.941]  # 3 points above, on every seed nearly
    test["segmentation"]["utility"] = [0.250, 0.290, 0.271]  # 5 points below
    found = sweep_results(read_records(make_tasks(tmp_path, test), "tasks")).across
    assert found is not None
    standings = {standing.name: standing for standing in found.standings}
    counts = {name: [one.tasks_of(v) for v in Verdict] for name, one in standings.items()}
    assert counts["utility"] == [1, 1, 0, 1, 0]
    assert counts["equal"] == [0, 0, 0, 3, 0]
    assert across_headline(found) == (
        "Beside “student alone”, in 3 tasks: “utility” is better in 1 and worse in 1. The other one is "
        "neither in any task."
    )
    text = across_markdown(found)
    assert "**" not in text
    rows = {line.split(" | ")[0]: line.split(" | ")[1:4] for line in text.splitlines() if "|" in line}
    assert rows["| utility"] == ["1", "1", "0"]
    assert rows["| student alone"] == [DASH] * 3


def test_a_strategy_that_a_task_lacks_has_no_rank_and_leaves_the_others_theirs(tmp_path: Path) -> None:
    test = {task: dict(values) for task, values in TEST.items()}
    del test["segmentation"]["equal"]
    found = sweep_results(read_records(make_tasks(tmp_path, test), "tasks")).across
    assert found is not None
    standings = {standing.name: standing for standing in found.standings}
    assert math.isnan(standings["equal"].mean_rank)
    assert math.isnan(standings["equal"].mean_gain)
    assert standings["utility"].ranks == {"classification": 1, "segmentation": 1, "detection": 2 - 1}


def test_a_task_whose_students_have_not_finished_waits(tmp_path: Path) -> None:
    root = make_tasks(tmp_path, TEST)
    for trial in json.loads((root / "sweeps" / "tasks" / "plan.json").read_text())["trials"]:
        if trial["task"] == "detection":
            shutil.rmtree(root / "runs" / trial["identity"])
    found = sweep_results(read_records(root, "tasks")).across
    assert found is not None
    assert found.gaps[2].trouble == "the baseline has no finished trial"
    assert "| detection<br>gain, % |" in across_markdown(found)
    assert "undefined: the baseline has no finished trial" in across_markdown(found)


def test_analyze_writes_a_table_for_each_task_and_one_across(tmp_path: Path) -> None:
    found = analyze(make_tasks(tmp_path, TEST), "tasks")
    assert {"table.md", "table.csv", "report.html", "plots/across.png"} <= set(found.files)
    for task in TEST:
        assert {f"{task}/table.md", f"{task}/table.csv", f"{task}/plots/comparison.png"} <= set(found.files)
    page = Path(found.files["report.html"]).read_text()
    assert all(f"{task.capitalize()}: Result" in page for task in TEST)
    assert found.headline in page
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
    assert row["verdict"] in list(Verdict)
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


def test_one_task_is_as_it_was(tmp_path: Path) -> None:
    """A sweep of one task whose plan says ``monitor`` gets its task's metric, and nothing across."""
    root = make_tasks(tmp_path, {"segmentation": TEST["segmentation"]})
    found = analyze(root, "tasks")
    assert found.across is None
    assert found.comparison.metric.name == "miou"
    assert found.comparison.plan.baseline == "segmentation, student alone"
    plan = json.loads((root / "sweeps" / "tasks" / "plan.json").read_text())
    assert [cell.name for cell in found.comparison.cells] == plan["cells"][:3]


def test_splits_that_overlap_widen_the_gap(records: Records) -> None:
    assert records.plan is not None
    chance = ({"vary": ["split"], "overlap": 0.5, "cells": list(records.plan.cells)},)
    wide = sweep_results(dataclasses.replace(records, plan=dataclasses.replace(records.plan, chance=chance)))
    narrow = sweep_results(records)
    assert wide.across is not None
    assert narrow.across is not None
    for one, other in zip(wide.across.gaps, narrow.across.gaps, strict=True):
        assert one.size.half_width == pytest.approx(other.size.half_width * math.sqrt((1 / 3 + 0.5) * 3))

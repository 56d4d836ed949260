"""Sweep files: what they expand to, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.cells import strategy_name
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec

BASE = {
    "dataset": {"name": "digits", "labels": 100},
    "student": {"name": "digits_cnn", "width": 2},
    "teacher": {"model": {"name": "digits_cnn", "width": 4}},
    "training": {"epochs": 6},
}
CELLS: dict[str, Any] = {
    "student alone": {"paths": []},
    "soft target": {"paths": [{"name": "soft_target", "weight": "published"}]},
}
SPACE = {"optimizer.lr": {"uniform": [0, 1]}}


def sweep(**changes: Any) -> SweepSpec:
    data = {"name": "tiny", "base": BASE, "seeds": [0, 1], "baseline": "student alone", "cells": CELLS}
    data["vary"] = ["student"]
    return SweepSpec.parse({**data, **changes})


def test_cells_and_seeds_multiply() -> None:
    plan = sweep().plan()
    assert [(trial.cell, trial.seed) for trial in plan.trials] == [
        ("student alone", 0),
        ("student alone", 1),
        ("soft target", 0),
        ("soft target", 1),
    ]
    assert len({trial.identity for trial in plan.trials}) == 4
    assert {trial.phase for trial in plan.trials} == {"compare"}
    assert plan.size == 4


def test_a_trial_is_the_base_with_its_overrides_and_seed() -> None:
    trial = sweep(cells={**CELLS, "fast": {"optimizer.lr": 0.5, "aggregation": "equal"}}).plan().trials[-1]
    assert (trial.spec.optimizer.lr, trial.spec.seed, trial.spec.training.epochs) == (0.5, 1, 6)
    assert trial.identity == trial.spec.identity()
    alike = RunSpec.parse({**BASE, "optimizer": {"lr": 0.5}, "aggregation": "equal", "seed": 1})
    assert trial.identity == alike.identity()
    assert trial.overrides == {"optimizer.lr": 0.5, "aggregation": "equal", "seed": 1}


def test_a_sweep_over_tasks_goes_by_each_task_s_own_metric() -> None:
    scenes = {"name": "scenes", "train": 4, "labels": 4, "validation": 2, "test": 2}
    segmentation = {
        "task": "segmentation",
        "dataset": scenes,
        "student": "scenes_segnet",
        "teacher": {"model": "scenes_segnet"},
    }
    changes: dict[str, Any] = {
        "cells": {},
        "axes": {"task": {"classification": {}, "segmentation": segmentation}, "strategy": CELLS},
    }
    plan = sweep(**changes, metric="monitor").plan()
    assert {plan.metric_of(trial.spec) for trial in plan.trials} == {"top1", "miou"}
    assert [trial.to_json()["task"] for trial in plan.trials] == ["classification"] * 4 + ["segmentation"] * 4
    assert len(plan.teachers) == 2
    with pytest.raises(UserError, match=r"classification, segmentation.*expected 'monitor'"):
        sweep(**changes).plan()
    with pytest.raises(UserError, match="scheduler: trials of several tasks"):
        sweep(**changes, metric="monitor", scheduler={"name": "asha", "grace_epochs": 1}).plan()
    with pytest.raises(UserError, match=r"unknown cell 'soft targets'.*soft target"):
        sweep(**changes, metric="monitor", baseline="soft targets")


def test_a_strategy_s_name_is_its_cell_s_without_the_task() -> None:
    assert strategy_name("detection, utility", {"task": "detection", "how": "utility"}) == "utility"
    assert strategy_name("utility, detection (searched)", {"task": "detection"}) == "utility (searched)"
    assert strategy_name("task=detection, lr=0.1", {"task": "detection"}) == "lr=0.1"
    assert strategy_name("detection of errors", {"how": "detection of errors"}) == "detection of errors"


def test_axes_multiply_and_name_their_cells() -> None:
    axes = {
        "optimizer.lr": [0.05, 0.1],
        "strategy": {
            "equal": {"aggregation": "equal"},
            "layer": {"aggregation": {"name": "fixed", "granularity": "layer"}},
        },
    }
    plan = sweep(axes=axes).plan()
    assert plan.cells[:4] == ("lr=0.05, equal", "lr=0.05, layer", "lr=0.1, equal", "lr=0.1, layer")
    assert plan.cells[4:] == ("student alone", "soft target")
    assert plan.trials[0].axes == {"optimizer.lr": 0.05, "strategy": "equal"}
    assert plan.trials[0].spec.aggregation.component_name == "equal"
    assert plan.trials[2].spec.aggregation.granularity == "layer"


def test_controls_are_outside_the_comparison() -> None:
    controls = {"student alone, 2x epochs": {"paths": [], "training.epochs": 12}}
    plan = sweep(controls=controls, control_seeds=[0]).plan()
    assert [(trial.cell, trial.seed) for trial in plan.trials if trial.phase == "control"] == [
        ("student alone, 2x epochs", 0)
    ]
    assert plan.cells[-1] == "student alone, 2x epochs"
    assert not any("control" in note for note in plan.notes)
    assert any("control" in note for note in sweep().plan().notes)


def test_cells_that_resolve_to_one_run_are_planned_as_one() -> None:
    cells = {**CELLS, "weight 0": {"paths": [{"name": "soft_target", "weight": 0}]}}
    plan = sweep(cells=cells).plan()
    assert len(plan.trials) == 6
    assert plan.size == 4
    assert "The same runs serve “student alone” and “weight 0”." in plan.notes


def test_teachers_are_planned_once() -> None:
    teachers = {"big": {"model": "digits_cnn"}, "bigger": {"model": {"name": "digits_cnn", "width": 16}}}
    base = {key: value for key, value in BASE.items() if key != "teacher"} | {"teachers": teachers}
    other = {"teachers.big.seed": 7, "optimizer.lr": 0.3}
    unused = sweep(base=base, cells={"student alone": {}, "other": other}).plan()
    assert len(unused.teachers) == 2  # no path learns from the bigger one
    cells = {"student alone": {}, "other": {**other, "paths": [{"name": "soft_target", "teacher": "bigger"}]}}
    plan = sweep(base=base, cells=cells).plan()
    assert len(plan.teachers) == 3
    assert len({teacher.identity() for teacher in plan.teachers}) == 3
    assert len(sweep().plan().teachers) == 1


def test_random_candidates_repeat_and_grow_with_the_budget() -> None:
    space = {"optimizer.lr": {"log_uniform": [1e-3, 1]}, "optimizer.momentum": {"uniform": [0.5, 0.99]}}
    search = {"method": "random", "trials": 4, "space": space, "cells": ["soft target"]}
    four = [trial for trial in sweep(search=search).plan().trials if trial.phase == "search"]
    six = [trial for trial in sweep(search={**search, "trials": 6}).plan().trials if trial.phase == "search"]
    assert [trial.identity for trial in six[:4]] == [trial.identity for trial in four]
    assert len({trial.identity for trial in six}) == 6
    assert all(1e-3 <= trial.spec.optimizer.lr <= 1 for trial in six)
    assert [trial.candidate for trial in six] == list(range(6))
    assert all(trial.cell == "soft target" and trial.seed == 0 for trial in six)


def test_every_cell_gets_the_same_candidates_and_a_searched_cell_of_its_own() -> None:
    plan = sweep(
        search={"method": "random", "trials": 3, "space": {"optimizer.lr": {"uniform": [0, 1]}}}
    ).plan()
    rates: dict[str, list[float]] = {}
    for trial in plan.trials:
        if trial.phase == "search":
            rates.setdefault(trial.cell, []).append(trial.spec.optimizer.lr)
    assert rates["student alone"] == rates["soft target"]
    assert plan.cells[2:] == ("student alone (searched)", "soft target (searched)")
    assert [(entry.cell, entry.count) for entry in plan.later] == [
        ("student alone (searched)", 2),
        ("soft target (searched)", 2),
    ]
    assert plan.size == 2 * 3 + 2 * 2 + 2 * 2


def test_grid_tries_every_point() -> None:
    space = {"optimizer.lr": [0.1, 0.2], "schedule.name": ["cosine", "constant"]}
    plan = sweep(search={"method": "grid", "space": space, "cells": ["soft target"], "seeds": [3]}).plan()
    points = [
        (trial.spec.optimizer.lr, trial.spec.schedule.name, trial.seed)
        for trial in plan.trials
        if trial.phase == "search"
    ]
    assert points == [(0.1, "cosine", 3), (0.1, "constant", 3), (0.2, "cosine", 3), (0.2, "constant", 3)]


def test_optuna_candidates_come_later() -> None:
    search = {
        "method": "optuna",
        "trials": 5,
        "space": {"optimizer.lr": {"uniform": [0, 1]}},
        "seeds": [0, 1],
    }
    plan = sweep(search={**search, "cells": ["soft target"]}).plan()
    assert [(entry.cell, entry.phase, entry.count) for entry in plan.later] == [
        ("soft target", "search", 10),
        ("soft target (searched)", "compare", 2),
    ]


def test_a_file_with_overrides_and_its_resolved_form_are_equal(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "base.yaml").write_text(RunSpec.parse(BASE).to_yaml())
    (tmp_path / "sweep.yaml").write_text(
        "name: tiny\nbase: runs/base.yaml\nseeds: [0, 1]\nbaseline: student alone\n"
        "cells:\n  student alone: {paths: []}\n"
        "search: {trials: 2, space: {optimizer.lr: {log_uniform: [1e-3, 1]}}}\nscheduler: asha\n"
    )
    spec = SweepSpec.load(tmp_path / "sweep.yaml", "base.optimizer.lr=0.25", "seeds=[4]")
    assert spec.seeds == (4,)
    assert spec.plan().trials[-1].spec.optimizer.lr == 0.25
    (tmp_path / "resolved.yaml").write_text(spec.to_yaml())
    again = SweepSpec.load(tmp_path / "resolved.yaml")
    assert again == spec
    assert [trial.identity for trial in again.plan().trials] == [
        trial.identity for trial in spec.plan().trials
    ]


def test_resources_reach_every_trial_and_change_no_identity() -> None:
    slow, fast = sweep().plan(), sweep(resources={"cpus": 2, "workers": 2}).plan()
    assert {trial.spec.resources.workers for trial in fast.trials} == {2}
    assert [trial.identity for trial in slow.trials] == [trial.identity for trial in fast.trials]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"seeds": []}, ["seeds", "no trials"]),
        ({"seeds": [0, 1, 1]}, ["seeds", "1 twice"]),
        ({"seeds": [-1]}, ["seeds"]),
        ({"seeds": {"looks": [5, 3]}}, ["seeds.looks", "increasing", "3 after 5"]),
        ({"seeds": {"looks": [4, 4]}}, ["seeds.looks", "increasing", "4 after 4"]),
        ({"seeds": {"looks": [1, 3]}}, ["seeds.looks", "at least 2", "got 1"]),
        ({"seeds": {"looks": []}}, ["seeds.looks", "at least one"]),
        ({"seeds": {"loks": [3]}}, ["seeds.loks", "Did you mean 'looks'?"]),
        ({"seeds": {"looks": [3], "margin": -1}}, ["seeds.margin", "greater than 0"]),
        ({"seeds": {"looks": [3], "power": 0.8}}, ["seeds", "looks and power"]),
        ({"seeds": {"looks": [3], "pilot": 8, "most": 20}}, ["seeds", "looks and pilot and most"]),
        ({"seeds": {"power": 0.8}}, ["seeds", "margin is missing"]),
        ({"seeds": {"margin": 1}}, ["seeds", "power is missing"]),
        ({"seeds": {"margin": 1, "power": 0.8, "pilot": 4}}, ["seeds.pilot", "5"]),
        ({"seeds": {"margin": 1, "power": 0.8, "pilot": 10, "most": 19}}, ["seeds", "at least 20", "got 19"]),
        ({"seeds": {"margin": 1, "power": 0.8, "spread": 2, "most": 30}}, ["seeds", "spread and most"]),
        ({"seeds": {"margin": 0.01, "power": 0.8, "spread": 9}}, ["seeds.power", "10000 seeds"]),
        ({"seeds": {"looks": [3]}, "baseline": None}, ["seeds.looks", "baseline"]),
        ({"seeds": {"looks": [3]}, "scheduler": "asha"}, ["scheduler", "asha", "a list of seeds"]),
        ({"seeds": {"looks": [3]}, "control_seeds": [3]}, ["control_seeds", "3"]),
        ({"cells": {}, "baseline": None}, ["no trials"]),
        ({"axes": {"optimizer.lr": []}}, ["axes", "optimizer.lr", "no trials"]),
        (
            {"axes": {"strategy": {"equal": "equal"}}},
            ["axes", "strategy", "labels that each map to overrides"],
        ),
        ({"baseline": "student alon"}, ["baseline", "Did you mean 'student alone'?"]),
        ({"basline": "student alone"}, ["unknown key 'basline'", "'baseline'"]),
        ({"name": "a/b"}, ["name", "folder"]),
        ({"axes": {"student alone": {"student alone": {}}}}, ["two cells are called 'student alone'"]),
        ({"controls": {"soft target": {}}}, ["two cells are called 'soft target'"]),
        ({"control_seeds": [7]}, ["control_seeds", "7"]),
        ({"concurrency": 0}, ["concurrency"]),
        ({"metric": {"name": "top1", "mode": "maximum"}}, ["metric.mode", "Did you mean 'max'?"]),
        ({"resources": {"cpu": 1}}, ["unknown key 'resources.cpu'", "Did you mean 'cpus'?"]),
        ({"scheduler": "pbt"}, ["pbt", "no fixed identity"]),
        ({"scheduler": {"name": "pb2"}}, ["pb2", "no fixed identity"]),
        ({"scheduler": "ashaa"}, ["scheduler", "Did you mean 'asha'?"]),
        ({"scheduler": {"name": "asha", "grace_epochs": 6}}, ["grace_epochs", "6"]),
        ({"search": {"trials": 0, "space": SPACE}}, ["search", "trials", "got 0"]),
        ({"search": {"space": SPACE}}, ["search", "number of trials"]),
        ({"search": {"trials": 2, "space": {}}}, ["search", "at least one key"]),
        (
            {"search": {"trials": 2, "space": SPACE, "cells": ["soft targets"]}},
            ["Did you mean 'soft target'?"],
        ),
        ({"search": {"trials": 2, "space": {"seed": {"uniform": [0, 1]}}}}, ["seed"]),
        ({"search": {"method": "optunaa", "trials": 2, "space": SPACE}}, ["Did you mean 'optuna'?"]),
        ({"search": {"method": "grid", "space": SPACE}}, ["optimizer.lr", "grid needs a list"]),
        ({"search": {"trials": 2, "space": {"optimizer.lr": {"uniform": [1, 0]}}}}, ["lower bound below"]),
        ({"search": {"trials": 2, "space": {"optimizer.lr": {"log_uniform": [0, 1]}}}}, ["above 0"]),
        (
            {"search": {"trials": 2, "space": {"optimizer.lr": {"unifrom": [0, 1]}}}},
            ["Did you mean 'uniform'?"],
        ),
        ({"cells": {"student alone": {"seed": 3}}}, ["cell 'student alone'", "seeds"]),
        (
            {"cells": {"student alone": {"optimiser.lr": 3}}},
            ["cell 'student alone'", "Did you mean 'optimizer'?"],
        ),
        ({"cells": {"student alone": {"paths": ["soft_targt"]}}}, ["Did you mean 'soft_target'?"]),
        ({"cells": {"student alone": {"training.epochs.x": 3}}}, ["cell 'student alone'"]),
        ({"search": {"trials": 1, "space": {"optimzer.lr": [1]}}}, ["Did you mean 'optimizer'?"]),
        (
            {"search": {"method": "optuna", "trials": 9, "space": {"optimzer.lr": {"uniform": [0, 1]}}}},
            ["cell 'student alone'", "Did you mean 'optimizer'?"],
        ),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        sweep(**changes).plan()
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("name: tiny\nbase: runs/none.yaml\ncells: {a: {}}\n")
    with pytest.raises(UserError, match=r"cannot read .*none"):
        SweepSpec.load(tmp_path / "sweep.yaml")


def test_looks_say_how_many_seeds_there_are_at_most() -> None:
    spec = sweep(seeds={"looks": [2, 3, 5], "margin": 1, "first": 1000}, controls={"longer": {"paths": []}})
    assert spec.all_seeds == (1000, 1001, 1002, 1003, 1004)
    seeds = {
        cell: [trial.seed for trial in spec.plan().trials if trial.cell == cell]
        for cell in ("soft target", "longer")
    }
    assert seeds == {"soft target": [1000, 1001, 1002, 1003, 1004], "longer": [1000, 1001]}
    assert SweepSpec.parse(spec.to_dict()) == spec


def test_looks_are_derived_from_what_they_are_to_find() -> None:
    few = sweep(seeds={"margin": 2, "power": 0.8, "spread": 1.5})
    cells = {**CELLS, **{f"rate {rate}": {"optimizer.lr": rate} for rate in (0.1, 0.2, 0.3)}}
    more = sweep(seeds={"margin": 2, "power": 0.8, "spread": 1.5}, cells=cells)
    finer = sweep(seeds={"margin": 1, "power": 0.8, "spread": 1.5})
    assert (few.strategies, more.strategies) == (1, 4)
    assert len(few.all_seeds) < len(more.all_seeds) < len(finer.all_seeds)
    for spec in (few, more, finer):
        assert spec.looks is not None
        assert list(spec.looks) == sorted(set(spec.looks))
        assert spec.looks[-1] == len(spec.all_seeds)


def test_a_task_without_its_baseline_cannot_be_looked_at() -> None:
    dense = {"task": "segmentation", "dataset": "scenes", "student": "scenes_segnet", "teacher": None}
    spec = sweep(
        axes={"task": {"classification": {}, "segmentation": dense}, "how": {"plain": {"paths": []}}},
        cells={"student alone": {"paths": []}},
        metric="monitor",
        seeds={"looks": [2, 4]},
    )
    with pytest.raises(UserError, match=r"seeds\.looks: task segmentation has no cell of the baseline"):
        spec.plan()

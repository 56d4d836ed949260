"""What a plan says beside what its runs leave."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_kd.cluster.plan import plan_table
from ray_kd.cluster.plan_runs import Alike, planned_runs
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.storage.prune import kind_of
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import ProcessCache
from tests.helpers import TINY

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}


def sweep_in(storage: Path, **changes: Any) -> SweepSpec:
    base = {**TINY, "storage": str(storage), "teacher": {**TINY["teacher"], "training": {"epochs": 1}}}
    cells = {"alone": {"paths": []}, "taught": {"paths": ["soft_target", "nst"]}}
    return SweepSpec.parse(
        {"name": "x", "base": base, "seeds": [0, 1], "baseline": "alone", "cells": cells, **changes}
    )


def said(sweep: SweepSpec, **options: Any) -> str:
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan_table(sweep, **options))
    return console.export_text()


def test_bytes_are_those_of_the_finished_sweep(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    text = said(sweep)
    found = re.search(r"Files: ([\d.]+) (\w+) of weights and ([\d.]+) (\w+) of records", text)
    assert found is not None, text
    weights, records = float(found[1]) * UNITS[found[2]], float(found[3]) * UNITS[found[4]]
    assert "digits: 120 train, 359 validation, 539 test. Of teachers: digits: 200 train" in text
    assert not (tmp_path / "runs").exists()
    cache = ProcessCache()
    summaries = [distill(trial.spec, cache=cache) for trial in sweep.plan().trials]
    assert f"Parameters: {summaries[0]['parameters']:,} of the student" in text
    kinds = Counter[str]()
    for path, size in Store(tmp_path).sizes().items():
        kinds[kind_of(path)] += size
    assert weights == pytest.approx(kinds["weights"], rel=0.15)
    assert records == pytest.approx(kinds["records"], rel=0.15)
    assert kinds["states"] == 0


def test_the_fewest_runs_are_those_of_the_first_look(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path, seeds={"looks": [2, 5]}, controls={"longer": {"training.epochs": 6}})
    plan = sweep.plan()
    runs = planned_runs(sweep, plan)
    assert runs.fewest == 2 * 2 + 2
    assert f"{runs.fewest} to {plan.size} trials" in said(sweep)

    def one(alike: Alike) -> float:
        return 1.0

    fewest, most = runs.total(one)
    assert most == plan.size + len(plan.teachers)
    assert fewest == runs.fewest + 2, "a teacher for each seed of the first look"


def test_trials_of_a_search_that_are_known_later_are_counted(tmp_path: Path) -> None:
    search = {"method": "grid", "space": {"optimizer.lr": [0.1, 0.2]}, "cells": ["taught"], "seeds": [0]}
    sweep = sweep_in(tmp_path, search=search)
    runs = planned_runs(sweep, sweep.plan())
    trials = [one for one in runs.alike if not one.teacher]
    assert len(trials) == 2, "rates change no cost"
    _, most = runs.total(lambda one: 0.0 if one.teacher else 1.0)
    assert most == pytest.approx(sweep.plan().size)


def test_data_that_are_missing_leave_the_rest_of_the_plan(tmp_path: Path) -> None:
    data = {"name": "cifar10", "root": str(tmp_path / "nowhere"), "download": True}
    base = {"dataset": data, "student": {"name": "cifar_resnet"}, "storage": str(tmp_path)}
    sweep = SweepSpec.parse({"name": "x", "base": base, "seeds": [0], "cells": {"a": {}}})
    text = said(sweep)
    assert "1 trials" in text
    assert "Sizes are not estimated: dataset cifar10" in text
    assert not (tmp_path / "nowhere").exists(), "a plan downloads nothing"

"""What a plan says beside what its runs leave."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ray_kd.cluster.plan import plan_table
from ray_kd.cluster.plan_runs import Alike, PlannedRuns, planned_runs
from ray_kd.cluster.plan_time import time_line, times_of, wall
from ray_kd.config.ending import Ending
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.storage.prune import kind_of
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.timing import EACH, seconds_of_run, time_side_by_side
from ray_kd.trials.ledger import Outcome
from tests.helpers import TINY, tiny

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
    assert re.search(r"Sizes are not estimated: dataset cifar10: .* does not exist\.\n", text)
    assert not (tmp_path / "nowhere").exists(), "a plan downloads nothing"


def outcome(seconds: float, epochs: int) -> Outcome:
    return Outcome(Ending.FINISHED, None, seconds, epochs, {})


def kinds(count: int, deps: int = 0, alone: int = 0) -> PlannedRuns:
    """So many trials that wait for a teacher each, after so many teachers, and trials that wait for none."""
    spec = sweep_in(Path("nowhere")).plan().trials[0].spec
    teachers = {f"t{index}": () for index in range(deps)}
    taught = {f"s{index}": (f"t{index % deps}",) if deps else () for index in range(count)}
    found = [Alike(spec, True, teachers, set(teachers)), Alike(spec, False, taught, {*taught})]
    found.append(Alike(spec, False, {f"a{index}": () for index in range(alone)}, set()))
    return PlannedRuns(found, 0, 0)


@pytest.mark.parametrize(
    ("runs", "slots", "seconds"),
    [
        (kinds(4), 1, 8.0),
        (kinds(4), 2, 4.0),
        (kinds(4, deps=1), 2, 10.0 + 4.0),  # all wait for the one teacher
        (kinds(4, deps=2), 2, 10.0 + 4.0),
        (kinds(4, deps=1, alone=3), 2, 10.0 + 4.0),  # the other slot trains those three meanwhile
        (kinds(4, deps=1, alone=3), 100, 12.0),
    ],
)
def test_a_run_begins_after_its_teacher_in_a_free_slot(runs: PlannedRuns, slots: int, seconds: float) -> None:
    each: list[float | None] = [10.0, 2.0, 3.0]
    assert wall(runs, {}, each, slots) == pytest.approx(seconds)
    assert wall(runs, {}, each, slots, fewest=True) <= seconds


def test_runs_that_ended_take_no_more_time_and_say_how_long_the_others_take(tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    plan = sweep.plan()
    runs = planned_runs(sweep, plan)
    nothing = times_of(runs, {})
    assert nothing.each == [None] * len(runs.alike)
    assert "--probe" in time_line(runs, {}, nothing, 1)
    assert "no slot of this machine" in time_line(runs, {}, nothing, 0)
    ended = {plan.trials[0].identity: outcome(30.0, 3), plan.teachers[0].identity(): outcome(7.0, 1)}
    times = times_of(runs, ended)
    known = [value for value in times.each if value is not None]
    assert len(known) == times.recorded == 2
    assert 30 < max(known) < 31
    text = time_line(runs, ended, times, 1)
    assert "on 1 slot like" in text
    assert "records of 2 of 3 kinds of runs, the others taken as their mean" in text
    # a second teacher, one more trial alone, and two taught, of which nothing is known
    assert wall(runs, ended, times.each, 1) == pytest.approx(7 + 3 * 30, abs=1.0)
    everything = {identity: outcome(1.0, 1) for one in runs.alike for identity in one.runs}
    assert "nothing is left" in time_line(runs, everything, times_of(runs, everything), 1)


def test_runs_of_other_seeds_and_lengths_say_how_long_an_epoch_takes(tmp_path: Path) -> None:
    before = sweep_in(tmp_path, cells={"alone": {"paths": []}}, seeds=[7])
    (trial,) = before.plan().trials
    summary = distill(trial.spec)
    sweep = sweep_in(tmp_path, controls={"longer": {"paths": [], "training.epochs": 30}})
    runs = planned_runs(sweep, sweep.plan())
    times = times_of(runs, {}, store=Store(tmp_path))
    known = {
        one.spec.training.epochs: value for one, value in zip(runs.alike, times.each, strict=True) if value
    }
    pace = summary["seconds"] / 3
    assert known[3] == pytest.approx(3 * pace + EACH, abs=1e-3)
    assert known[30] == pytest.approx(30 * pace + EACH, abs=1e-2)
    assert times.recorded == 3, "alone, its control, and the teacher; nothing alike is taught"
    assert "from records of 3 of 4 kinds" in said(sweep)


@pytest.mark.parametrize("targets", ["live", "stored"])
def test_every_kind_of_runs_can_be_timed_and_timing_writes_nothing(tmp_path: Path, targets: str) -> None:
    sweep = sweep_in(tmp_path)
    sweep = sweep.model_copy(update={"base": {**sweep.base, "targets": targets}})
    state, cache = torch.get_rng_state(), ProcessCache()
    for one in planned_runs(sweep, sweep.plan()).alike:
        assert seconds_of_run(one.spec, local_context(one.spec), cache, seconds=0.1) > EACH
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_timed_side_by_side_and_a_failure_is_told(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=[])
    data = {"name": "cifar10", "root": str(tmp_path / "nowhere")}
    lost = RunSpec.parse({**spec.to_dict(), "dataset": data, "student": {"name": "cifar_resnet"}})
    twice, failed = time_side_by_side([spec, lost], 3, seconds=0.0)
    assert len(twice) == 2, "so that the third process is not idle"
    assert (twice[0].seconds or 0) > EACH
    assert twice[0].memory > 50e6
    assert "cifar10" in failed[0].failed
    assert failed[0].seconds is None


def test_the_plan_of_a_probe_says_time_and_memory(tmp_path: Path) -> None:
    text = said(sweep_in(tmp_path), probe=True)
    assert re.search(r"Time: about [\d.]+ (s|min) on \d+ slots? like this machine's, teachers included", text)
    assert re.search(r"timed steps of [1-3] of 3 kinds", text), "the first kind is timed however slow this is"
    assert "Memory of a timed run: up to" in text
    assert list(tmp_path.iterdir()) == []

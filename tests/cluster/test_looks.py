"""Sweeps with looks on a real Ray: what is dropped, a budget of time, a driver that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_kd.analysis import read_records
from ray_kd.analysis.verdicts import sweep_verdicts
from ray_kd.cluster.sweep import SweepResult, run_sweep
from ray_kd.config.sweep import SweepSpec
from ray_kd.statistics.looks import Verdict
from tests.cluster.faults import MARK, left_of, wait_for
from tests.cluster.test_sweep import DRIVER
from tests.helpers import TINY

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_cpus")]

CELLS: dict[str, Any] = {
    "alone": {"paths": []},
    "taught": {"paths": ["soft_target"]},
    "broken": {"paths": [], "optimizer.lr": 1e25},
}
"""On any seed the third loses all of its trials to NaN, so that the first look ends it."""


def sweep(epochs: int = 3) -> SweepSpec:
    base = {**TINY, "training": {"epochs": epochs, "batch_size": 30}}
    data = {"name": "tiny", "base": base, "baseline": "alone", "cells": CELLS, "concurrency": 1}
    return SweepSpec.parse({**data, "seeds": {"looks": [2, 4], "margin": 5}})


def run(spec: SweepSpec, storage: Path, **options: Any) -> SweepResult:
    return run_sweep(spec, storage=str(storage), progress=False, **options)


def ledger(storage: Path) -> dict[tuple[str, int], str]:
    files = (storage / "sweeps" / "tiny" / "ledger").glob("*.json")
    entries = [json.loads(file.read_text()) for file in files]
    return {(entry["cell"], entry["seed"]): entry["status"] for entry in entries}


def test_time_ends_a_sweep_whose_looks_the_same_call_completes(tmp_path: Path) -> None:
    spec = sweep()
    first = run(spec, tmp_path, until_time=0.01)
    assert (first.out_of_time, first.interrupted, first.exit_code) == (True, False, 3)
    assert first.unfinished == 12
    assert "Time is over." in first.message()
    declared = (tmp_path / "sweeps" / "tiny" / "design.json").read_text()
    assert json.loads(declared)["families"][0]["begun"] is False

    result = run(spec, tmp_path)
    assert result.complete
    assert (result.failed, result.not_needed, result.exit_code) == (2, 2, 1), result.message()
    assert "2 not needed" in result.message()
    state = ledger(tmp_path)
    assert [state["broken", seed] for seed in range(4)] == ["failed", "failed", "not needed", "not needed"]
    assert {state["taught", seed] for seed in range(2)} == {"finished"}

    verdicts = sweep_verdicts(read_records(tmp_path, "tiny"))
    assert (verdicts.of("broken").verdict, verdicts.of("broken").lost) == (Verdict.NONE, 2)
    last = verdicts.of("taught").look
    assert {
        seed for (cell, seed), status in state.items() if cell == "alone" and status == "finished"
    } == set(range(last))
    (family,) = verdicts.design.families
    assert family.begun
    assert family.declared == json.loads(declared)["families"][0]["declared"], "declared once"
    assert run(spec, tmp_path).started == 0


@pytest.mark.exhaustive
def test_a_driver_killed_at_any_look_gives_the_verdicts_of_an_undisturbed_sweep(tmp_path: Path) -> None:
    spec, (whole, storage) = sweep(epochs=40), (tmp_path / "whole", tmp_path / "results")
    run(spec, whole)
    (tmp_path / "sweep.yaml").write_text(spec.to_yaml())
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "sweep.yaml"), str(storage)]
    for ended in (2, 7):  # before the first look, and after it
        driver = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, MARK: str(tmp_path)},
        )
        over = driver.poll
        wait_for(lambda ended=ended, over=over: len(ledger(storage)) >= ended or over() is not None)
        assert driver.poll() is None, driver.communicate()
        driver.kill()
        driver.communicate()
    result = run(spec, storage)
    assert result.complete
    assert ledger(storage) == ledger(whole)
    found = [
        {
            cell: repr(verdicts.of(cell))
            for verdicts in [sweep_verdicts(read_records(folder, "tiny"))]
            for cell in verdicts.design.current
        }
        for folder in (storage, whole)
    ]
    assert found[0] == found[1]
    wait_for(lambda: not left_of(str(tmp_path)))  # of the killed drivers

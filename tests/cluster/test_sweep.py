"""Sweeps on a real Ray: run twice, with failures, with kills, with Ctrl-C, with a search."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cluster.sweep import SweepResult, run_sweep
from ray_kd.config.errors import UserError
from ray_kd.config.spec import Resources
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from tests.cluster.faults import MARK, holder, left_of, losses, records, wait_for
from tests.helpers import TINY, on_files, start_ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_cpus")]

CELLS: dict[str, Any] = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
LEARNABLE: dict[str, Any] = {"name": "digits", "labels": 600}
"""Twenty steps an epoch: after five a student that learns is far ahead of one that does not (top-1 of 0.34 to
0.62, and 0.13), on any seed. Of TINY's four steps nothing shows by then: who is stopped would be luck."""


def sweep(epochs: int = 3, **changes: Any) -> SweepSpec:
    training = {"epochs": epochs, "batch_size": 30, "evaluate_every": max(1, epochs // 10)}
    base = {**TINY, "dataset": changes.pop("dataset", TINY["dataset"]), "training": training}
    data = {"name": "tiny", "base": base, "seeds": [0, 1], "baseline": "alone", "cells": CELLS}
    data["vary"] = ["student"]
    return SweepSpec.parse({**data, **changes})


def run(spec: SweepSpec, storage: Path, **options: Any) -> SweepResult:
    return run_sweep(spec, storage=str(storage), progress=False, **options)


def summary(storage: Path, identity: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((storage / "runs" / identity / "summary.json").read_text())
    return loaded


def epochs(storage: Path, identity: str) -> list[dict[str, Any]]:
    return records(storage / "runs" / identity)


@dataclass
class Swept:
    """A sweep that several tests look at, and what its first call gave."""

    spec: SweepSpec
    storage: Path
    first: SweepResult


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, seed_shift: int) -> Swept:
    """One seed of each kind of trial: no teacher, a teacher, a loss that becomes NaN, files, two workers."""
    start_ray()
    root = tmp_path_factory.mktemp("swept")
    cells = {
        **CELLS,
        "broken": {"paths": [], "optimizer.lr": 1e25},
        "files": {"paths": [], **on_files(root, loaders=2)},
        "spread": {"paths": ["soft_target"], "optimizer.lr": 0.01, "resources.workers": 2},
    }
    spec = sweep(seeds=[3 + seed_shift], cells=cells, vary=["student", "teacher", "labels"])
    return Swept(spec, root / "results", run(spec, root / "results"))


def test_a_sweep_with_a_nan_goes_on_and_says_which_trial_failed(swept: Swept) -> None:
    first, folder = swept.first, swept.storage / "sweeps" / "tiny"
    assert (first.total, first.finished, first.failed, first.started) == (5, 4, 1, 7), (
        first.message()
    )  # and two teachers
    assert first.complete
    (failure,) = first.failures
    assert failure["cell"] == "broken"
    assert "NaN" in failure["reason"]
    assert "TrainingFailed" in (swept.storage / failure["error"]).read_text()
    assert f"broken, seed {swept.spec.seeds[0]}" in first.message()

    plan = json.loads((folder / "plan.json").read_text())
    ledger = {file.stem for file in (folder / "ledger").iterdir()}
    assert ledger == {trial["identity"] for trial in plan["trials"]}
    assert SweepSpec.load(folder / "sweep.yaml").plan().to_json() == plan


def test_a_second_call_starts_nothing(swept: Swept) -> None:
    written = {file: file.stat().st_mtime_ns for file in (swept.storage / "runs").rglob("*")}
    second = run(swept.spec, swept.storage)
    assert (second.finished, second.failed, second.started) == (4, 1, 0)
    assert {file: file.stat().st_mtime_ns for file in (swept.storage / "runs").rglob("*")} == written


def test_a_trial_in_an_actor_gives_the_numbers_of_a_bare_run(swept: Swept, tmp_path: Path) -> None:
    """So does one whose files other processes read: in an actor they are children of its own."""
    alone = Resources()
    compared = []
    for trial in swept.spec.plan().trials:
        if trial.cell in ("alone", "taught", "files"):
            here = trial.spec.model_copy(update={"storage": str(tmp_path), "resources": alone})
            assert here.identity() == trial.identity
            bare = distill(here)
            ours = summary(swept.storage, trial.identity)
            assert (ours["last"], ours["best"]) == (bare["last"], bare["best"])
            compared.append(trial.cell)
    assert len(compared) == 3


@pytest.mark.outcome
def test_a_trial_of_two_workers_trains_as_one_worker_does(
    swept: Swept, tmp_path: Path, seed_shift: int
) -> None:
    (trial,) = [trial for trial in swept.spec.plan().trials if trial.cell == "spread"]
    folder = swept.storage / "runs" / trial.identity
    assert json.loads((folder / "environment.json").read_text())["workers"] == 2
    assert not (folder / "checkpoints").exists()
    distill(trial.spec.model_copy(update={"storage": str(tmp_path), "resources": Resources()}))
    # Float order alone: three epochs of four steps. Other data or a sum for a mean differ by percents.
    assert losses(folder) == pytest.approx(losses(tmp_path / "runs" / trial.identity), rel=1e-3)


def test_the_trial_of_a_killed_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    spec = sweep(epochs=150, seeds=[0], cells={"alone": {"paths": []}})
    (trial,) = spec.plan().trials
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: len(epochs(tmp_path, trial.identity)) >= 20)
        killed.append(holder(tmp_path / "runs" / trial.identity))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(spec, tmp_path)
    killer.join()
    assert killed
    assert (result.finished, result.failed) == (1, 0)
    assert [record["epoch"] for record in epochs(tmp_path, trial.identity)] == list(range(1, 151))
    bare = distill(trial.spec.model_copy(update={"storage": str(tmp_path / "bare")}))
    assert summary(tmp_path, trial.identity)["last"] == bare["last"]


DRIVER = """
import sys
from ray_kd.cluster.sweep import run_sweep
if __name__ == "__main__":
    result = run_sweep(sys.argv[1], storage=sys.argv[2])
    sys.exit(130 if result.interrupted else 0)
"""


def test_ctrl_c_and_a_killed_driver_repeat_no_finished_trial(tmp_path: Path) -> None:
    spec = sweep(epochs=60, seeds=[0, 1, 2, 3])
    (tmp_path / "sweep.yaml").write_text(spec.to_yaml())
    (tmp_path / "driver.py").write_text(DRIVER)
    storage, ledger = tmp_path / "results", tmp_path / "results" / "sweeps" / "tiny" / "ledger"
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "sweep.yaml"), str(storage)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, MARK: str(tmp_path)},
        )

    def ended() -> dict[str, int]:
        if not ledger.exists():
            return {}
        names = [file.stem for file in ledger.glob("*.json")]
        return {name: (storage / "runs" / name / "summary.json").stat().st_mtime_ns for name in names}

    driver = start()
    wait_for(lambda: len(ended()) >= 1 or driver.poll() is not None)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=240)
    assert driver.returncode == 130, said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    first = ended()
    assert 1 <= len(first) < 8

    driver = start()
    wait_for(lambda: len(ended()) > len(first) or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()
    driver.kill()
    driver.communicate()
    wait_for(lambda: not left_of(str(tmp_path)))  # its actors may still write how a run ended
    second = ended()
    assert second.items() >= first.items()
    planned = {trial.identity for trial in spec.plan().trials}
    trained = planned & {file.parent.name for file in storage.glob("runs/*/summary.json")}
    assert second.keys() <= trained
    assert len(trained) <= 6, "two are left, to run one after the other"

    result = run(spec.model_copy(update={"concurrency": 1}), storage)
    assert (result.total, result.finished, result.interrupted) == (8, 8, False)
    assert result.started == 8 - len(trained)
    assert ended().items() >= second.items()
    # One at a time also when it goes on (Ray issue 40652): each began after the one before had ended.
    ours = [storage / "runs" / name for name in ended().keys() - trained]
    spans = sorted(
        tuple((run / file).stat().st_mtime_ns for file in ("environment.json", "summary.json"))
        for run in ours
    )
    assert all(earlier[1] < later[0] for earlier, later in pairwise(spans))
    for trial in spec.plan().trials:
        assert [record["epoch"] for record in epochs(storage, trial.identity)] == list(range(1, 61))
    wait_for(lambda: not left_of(str(tmp_path)))


@pytest.mark.parametrize("resources", [{"cpus": 64}, {"gpus": 64}, {"cpus": 2, "workers": 3}])
def test_a_trial_that_fits_nowhere_is_refused_before_anything_starts(
    tmp_path: Path, resources: dict[str, float]
) -> None:
    with pytest.raises(UserError, match="no slot could ever hold") as caught:
        run(sweep(resources=resources), tmp_path)
    assert "2 CPUs" in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps" / "tiny" / "plan.json").exists()


def test_a_search_stops_weak_candidates_and_runs_its_winner_on_all_seeds(tmp_path: Path) -> None:
    search = {
        "method": "grid",
        "space": {"optimizer.lr": [0.1, 1e-7, 1e-6, 1e-5, 3e-6, 0.2]},
        "cells": ["alone"],
    }
    scheduler = {"name": "asha", "grace_epochs": 5, "reduction": 2}
    spec = sweep(epochs=12, dataset=LEARNABLE, search=search, scheduler=scheduler)
    result = run(spec, tmp_path)
    assert result.failed == 0
    plan = json.loads((tmp_path / "sweeps" / "tiny" / "plan.json").read_text())
    statuses = {
        trial["overrides"]["optimizer.lr"]: summary(tmp_path, trial["identity"])
        for trial in plan["trials"]
        if trial["phase"] == "search"
    }
    stopped = [one for one in statuses.values() if one["status"] == "stopped"]
    assert len(stopped) == result.stopped >= 2
    assert all(one["last"]["test"] is None and 5 <= one["epochs"] < 12 for one in stopped)
    assert all("asha" in one["reason"] for one in stopped)
    winners = [trial for trial in plan["trials"] if trial["cell"] == "alone (searched)"]
    assert [trial["seed"] for trial in winners] == [0, 1]
    assert {trial["overrides"]["optimizer.lr"] for trial in winners} <= {0.1, 0.2}
    assert all(summary(tmp_path, trial["identity"])["status"] == "finished" for trial in winners)
    again = run(spec, tmp_path)
    assert (again.started, again.stopped, again.finished) == (0, result.stopped, result.finished)


@pytest.mark.exhaustive
def test_trials_of_two_workers_run_under_ray_train_and_leave_no_placement_group(tmp_path: Path) -> None:
    """Those of stopped trials leaked (Ray issue 54305), until nothing could be placed any more."""
    import ray

    spec = sweep(
        epochs=20,
        dataset=LEARNABLE,
        cells={"alone": {"paths": [], "teacher": None}},
        resources={"workers": 2},
        search={"method": "grid", "space": {"optimizer.lr": [0.1, 1e-7]}, "cells": ["alone"]},
        scheduler={"name": "asha", "grace_epochs": 8, "reduction": 2},
    )
    result = run(spec, tmp_path)
    plan = json.loads((tmp_path / "sweeps" / "tiny" / "plan.json").read_text())
    rates = {trial["identity"]: trial["overrides"].get("optimizer.lr") for trial in plan["trials"]}
    ended = {identity: summary(tmp_path, identity) for identity in rates}
    (stopped,) = [one for one in ended.values() if one["status"] == "stopped"]
    assert rates[stopped["identity"]] == 1e-7
    assert 8 <= stopped["epochs"] < 20
    assert "asha" in stopped["reason"]
    finished = [identity for identity, one in ended.items() if one["status"] == "finished"]
    assert len(finished) >= 2, "the winner trained after the stopped one"
    for identity in finished:
        assert [record["epoch"] for record in epochs(tmp_path, identity)] == list(range(1, 21))
        environment = json.loads((tmp_path / "runs" / identity / "environment.json").read_text())
        assert environment["workers"] == 2
    assert not list((tmp_path / "runs").glob("*/checkpoints"))
    wait_for(lambda: ray.available_resources().get("CPU") == 2)

    def states() -> set[str]:
        return {group["state"] for group in ray.util.placement_group_table().values()}

    wait_for(lambda: states() == {"REMOVED"})
    assert run(spec, tmp_path).started == 0
    assert result.failed == 0

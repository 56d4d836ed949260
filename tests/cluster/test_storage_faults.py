"""A storage that fails while a sweep runs: trials are unfinished, and the same command goes on with them."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from ray_kd.analysis import read_records
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from tests.cluster.faults import Command, holder, lines, records, wait_for
from tests.helpers import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def sweep(epochs: int, teacher_epochs: int = 2, **changes: Any) -> SweepSpec:
    teacher = {**TINY["teacher"], "training": {"epochs": teacher_epochs, "batch_size": 50}}
    base = {**TINY, "teacher": teacher, "training": {"epochs": epochs, "batch_size": 30}}
    base["checkpoints"] = {"every_epochs": 10}
    cells = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
    data = {"name": "tiny", "base": base, "seeds": [0], "baseline": "alone", "cells": cells}
    return SweepSpec.parse({**data, **changes})


def states(storage: Path) -> dict[str, str]:
    """Each trial's state, as tables and ``status`` show it."""
    trials = read_records(storage, "tiny").trials
    return {row.cell: row.status for row in trials.itertuples() if row.phase == "compare"}


def same_as_undisturbed(spec: SweepSpec, storage: Path, bare: Path) -> None:
    for trial in spec.plan().trials:
        summary = json.loads((storage / "runs" / trial.identity / "summary.json").read_text())
        alone = distill(trial.spec.model_copy(update={"storage": str(bare)}))
        assert (summary["last"], summary["best"]) == (alone["last"], alone["best"])


@pytest.mark.usefixtures("two_cpus")
def test_a_disk_that_is_full_for_a_trial_leaves_it_unfinished(tmp_path: Path) -> None:
    spec, storage = sweep(120, cells={"alone": {"paths": []}}), tmp_path / "results"
    (trial,) = spec.plan().trials
    folder = storage / "runs" / trial.identity

    def fill() -> None:
        """The trial's process can write no more: a limit on files stands for a full disk."""
        wait_for(lambda: len(lines(folder)) >= 12)
        process = psutil.Process(holder(folder))
        process.rlimit(resource.RLIMIT_FSIZE, (0, process.rlimit(resource.RLIMIT_FSIZE)[1]))

    filler = threading.Thread(target=fill)
    filler.start()
    result = run_sweep(spec, storage=str(storage), progress=False)
    filler.join()
    assert (result.finished, result.failed, result.unfinished) == (0, 0, 1), result.message()
    assert result.exit_code == 3
    assert "unfinished: alone, seed 0: cannot write" in result.message()
    assert "the same command resumes" in result.message()
    assert not (folder / "summary.json").exists()
    assert not (folder / "error.txt").exists()
    before = lines(folder)
    assert 12 <= len(before) < 120
    assert states(storage) == {"alone": "unfinished"}

    again = run_sweep(spec, storage=str(storage), progress=False)
    assert (again.finished, again.exit_code) == (1, 0), again.message()
    assert lines(folder)[:10] == before[:10], "it went on from its last state"
    assert [record["epoch"] for record in records(folder)] == list(range(1, 121))
    assert states(storage) == {"alone": "finished"}
    same_as_undisturbed(spec, storage, tmp_path / "bare")


def read_only_on_demand(folder: Path, sign: Path) -> list[str]:
    """A command's prefix: for what follows a folder becomes read-only as soon as a file is there.

    Mounts of one's own need root, or a kernel that allows user namespaces; elsewhere this skips, and the
    test above it, which needs neither, speaks for both.
    """
    for flags in ("-m", "-Urm"):
        prefix = ["unshare", flags, "bash", "-c"]
        there = shlex.quote(str(folder))
        bind = f"mount --bind {there} {there}"
        lock = f"mount -o remount,ro,bind {there}"
        if (
            shutil.which("unshare")
            and not subprocess.run([*prefix, f"{bind} && {lock}"], capture_output=True).returncode
        ):
            watch = f"until [ -e {shlex.quote(str(sign))} ] && {lock} 2>/dev/null; do sleep 0.05; done"
            return [*prefix, f'{bind} && {{ ({watch}) & exec "$@"; }}', "bash"]
    pytest.skip("this system lets no process have mounts of its own")


@pytest.mark.exhaustive
def test_a_storage_that_is_read_only_while_the_teacher_trains(tmp_path: Path) -> None:
    spec, storage, sign = sweep(3, teacher_epochs=300), tmp_path / "results", tmp_path / "read-only"
    file = tmp_path / "sweep.yaml"
    file.write_text(spec.to_yaml())
    (teacher,) = spec.plan().teachers
    folder = storage / "runs" / teacher.identity()
    storage.mkdir()
    words = ("sweep", str(file), f"--storage={storage}")
    command = Command(*words, prefix=read_only_on_demand(storage, sign))
    wait_for(lambda: len(lines(folder)) >= 22 or command.process.poll() is not None)
    sign.touch()
    code, said = command.end()
    assert code == 3, said
    assert "Read-only file system" in said
    assert "Traceback" not in said
    assert said.count("unfinished: ") >= 1
    last = said.strip().splitlines()
    assert any(line.startswith(f"next: ray-kd sweep {file} --storage={storage}") for line in last), said
    assert not list(storage.glob("runs/*/error.txt"))
    before = lines(folder)
    assert 22 <= len(before) < 300
    assert states(storage)["taught"] == "missing", "it was not started without its teacher"

    code, said = Command(*words).end()
    assert code == 0, said
    assert lines(folder)[:20] == before[:20], "it went on from its last state"
    assert states(storage) == {"alone": "finished", "taught": "finished"}
    same_as_undisturbed(spec, storage, tmp_path / "bare")

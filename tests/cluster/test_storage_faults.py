"""A storage that fails while a sweep runs: the sweep waits, or ends and the same command goes on."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import signal
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
    result = run_sweep(spec, storage=str(storage), progress=False, storage_timeout=0)
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
    """A command's prefix: for what follows a folder is read-only as long as a file is there.

    Mounts of one's own need root, or a kernel that allows user namespaces; elsewhere this skips, and the
    test above it, which needs neither, speaks for both.
    """
    for flags in ("-m", "-Urm"):
        prefix = ["unshare", flags, "bash", "-c"]
        there = shlex.quote(str(folder))
        bind = f"mount --bind {there} {there}"
        mount = f"mount -o remount,$wanted,bind {there}"
        if (
            shutil.which("unshare")
            and not subprocess.run([*prefix, f"{bind} && wanted=ro; {mount}"], capture_output=True).returncode
        ):
            look = f"wanted=rw; [ -e {shlex.quote(str(sign))} ] && wanted=ro"
            change = f"[ $wanted = $now ] || {{ {mount} 2>/dev/null && now=$wanted; }}"
            alive = "kill -0 $$ 2>/dev/null"  # the command, which this shell becomes
            watch = f"now=rw; while sleep 0.05 && {alive}; do {look}; {change}; done"
            return [*prefix, f'{bind} && {{ ({watch}) & exec "$@"; }}', "bash"]
    pytest.skip("this system lets no process have mounts of its own")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


class Disk:
    """A storage that is read-only while ``sign`` exists, for the commands that ``sweep`` starts."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.sign, self.file = folder / "results", folder / "read-only", folder / "sweep.yaml"
        self.storage.mkdir()
        self.prefix = read_only_on_demand(self.storage, self.sign)

    def sweep(self, *options: str) -> Command:
        words = ("sweep", str(self.file), f"--storage={self.storage}", *options)
        return Command(*words, prefix=self.prefix)


@pytest.mark.exhaustive
def test_a_sweep_waits_for_a_storage_that_is_read_only_for_a_while(disk: Disk, tmp_path: Path) -> None:
    """While the driver starts, while the teacher trains, and while the students do."""
    spec = sweep(100, teacher_epochs=120)
    disk.file.write_text(spec.to_yaml())
    (teacher,) = spec.plan().teachers
    runs = [
        disk.storage / "runs" / run.identity() for run in (teacher, *(t.spec for t in spec.plan().trials))
    ]
    disk.sign.touch()
    command = disk.sweep()
    command.wait_for("Trying again in ", times=2)
    disk.sign.unlink()
    for number, trained in ((1, runs[:1]), (2, runs[1:])):
        wait_for(lambda trained=trained: any(len(lines(folder)) >= 22 for folder in trained))
        disk.sign.touch()
        command.wait_for("the storage does not answer (cannot write ", times=number)
        disk.sign.unlink()
        command.wait_for("the storage answers again, after ", times=number)
    code, said = command.end()
    assert code == 0, said
    assert "Traceback" not in said
    assert "tiny: 2 of 2 trials finished (3 started now, " in said
    assert not list(disk.storage.glob("runs/*/error.txt"))
    assert [len(records(folder)) for folder in runs] == [120, 100, 100]
    same_as_undisturbed(spec, disk.storage, tmp_path / "bare")


@pytest.mark.exhaustive
def test_a_storage_that_stays_read_only_ends_a_sweep(disk: Disk, tmp_path: Path) -> None:
    """Ctrl-C ends the pause at once; the next call gives up, and the one after that goes on."""
    spec = sweep(3, teacher_epochs=150)
    disk.file.write_text(spec.to_yaml())
    (teacher,) = spec.plan().teachers
    folder = disk.storage / "runs" / teacher.identity()
    command = disk.sweep()
    wait_for(lambda: len(lines(folder)) >= 22 or command.process.poll() is not None)
    disk.sign.touch()
    command.wait_for("the storage does not answer (cannot write ")
    command.process.send_signal(signal.SIGINT)
    code, said = command.end()
    assert code == 130, said
    assert "Stopped. " in said
    assert "Traceback" not in said
    before = lines(folder)
    assert 22 <= len(before) < 150

    disk.sign.unlink()
    command = disk.sweep("--storage-timeout=3s")
    wait_for(lambda: len(lines(folder)) > len(before) or command.process.poll() is not None)
    disk.sign.touch()
    code, said = command.end()
    assert code == 3, said
    assert "Given up: the storage did not answer for 0:03: cannot write " in said
    assert "Read-only file system" in said
    assert "Traceback" not in said
    last = said.strip().splitlines()
    assert any(
        line.startswith(f"next: ray-kd sweep {disk.file} --storage={disk.storage}") for line in last
    ), said
    assert not list(disk.storage.glob("runs/*/error.txt"))
    assert states(disk.storage)["taught"] == "missing", "it was not started without its teacher"

    code, said = disk.sweep("--storage-timeout=1s").end()
    assert code == 3, said
    assert "Unfinished: the same command resumes from here." in said

    disk.sign.unlink()
    code, said = disk.sweep().end()
    assert code == 0, said
    assert lines(folder)[:20] == before[:20], "it went on from its last state"
    assert states(disk.storage) == {"alone": "finished", "taught": "finished"}
    same_as_undisturbed(spec, disk.storage, tmp_path / "bare")

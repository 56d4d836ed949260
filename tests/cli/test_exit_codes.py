"""The exit code says how it ended, and the last line what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ray_kd.config.spec import RunSpec
from tests.cli.conftest import Cli
from tests.cluster.faults import full_disk


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("two_cpus")
def test_a_sweep_whose_trials_all_fail_says_so(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    """The teacher fails too: whom it would have taught is blocked."""
    storage = tmp_path / "results"
    changes = ("cells.alone.teacher=null", "base.optimizer.lr=1e25", "base.teacher.optimizer.lr=1e25")
    said = cli("sweep", sweep_file, *changes, "--storage", storage)
    assert said.code == 1, said.err
    assert "small: 0 of 4 trials finished, 2 failed, 2 blocked" in said.err
    assert "  blocked: taught, seed 0 and 1 more: its teacher (" in said.err
    assert "failed: the task loss became NaN" in said.err
    last = said.out.strip().splitlines()[-1]
    assert last.startswith("4 of 4 trials failed or have no teacher. Fix the reasons above, then run: ")
    command = shlex.split(last.partition("then run: ")[2])
    assert command[:2] == ["ray-kd", "sweep"]
    assert command[2:] == [str(sweep_file), *changes, f"--storage={storage}", "--retry-failed"]

    again = cli(*command[1:-1])
    assert again.code == 1, "it is not forgotten"
    assert "started now" not in again.err

    shown = cli("status", storage)
    assert shown.code == 0
    assert "blocked: taught, seed 1: its teacher (" in shown.out


def test_a_run_on_a_full_disk_is_unfinished(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    command = ("train", run_file, "paths=[]", "teacher=null", "--storage", tmp_path / "results")
    (tmp_path / "results").mkdir()
    with full_disk():
        said = cli(*command)
    assert said.code == 3
    assert said.err.startswith(f"ray-kd: cannot write {tmp_path}/results/runs/")
    assert said.err.strip().endswith("Unfinished: the same command resumes from here.")
    spec = RunSpec.load(run_file, "paths=[]", "teacher=null")
    folder = tmp_path / "results" / "runs" / spec.identity()
    assert not folder.exists() or not list(folder.iterdir()), "not even an empty lock"
    assert cli(*command).code == 0


def test_a_user_s_mistake_stays_one(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = cli("train", run_file, "paths=[]", "teacher=null", "--storage", tmp_path / "file")
    assert said.code == 2
    assert "A file lies where a folder is needed" in said.err

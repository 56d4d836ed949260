"""What is on the screen is ours: every line of it is known, W&B and Ray included."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ray_kd.config.sweep import SweepSpec
from tests.tracking.test_wandb import history, offline_runs

ROOT = Path(__file__).parents[2]
TRAINED = r"tiny(-teacher)?: epoch \d/\d  loss \d\.\d+  val top1 0\.\d+(  \d+ s left)?"
PROGRESS = r"small: \d of \d trials done, \d running, \d waiting, 0 failed.*elapsed.*"
SWEPT = r"small: 4 of 4 trials finished \(5 started now, \d+:\d\d\)"
NO_KEY = r"W&B has no key: tracking offline; .*"


def start(home: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """The command in a process of its own, as on a machine that knows nothing of W&B."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "RAY"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ray_kd", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=home, stdout=pipe, stderr=pipe, text=True)


def run(home: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Its exit code, and what it said on standard output and standard error."""
    process = start(home, *arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def only(text: str, *patterns: str) -> None:
    """Every line is one of these."""
    for line in text.splitlines():
        assert any(re.fullmatch(pattern, line) for pattern in patterns), f"not ours: {line!r}"


def test_train_says_only_what_it_does(run_file: Path, tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "train", run_file, "training.epochs=1", "tracking.wandb=online")
    assert code == 0, err
    only(err, TRAINED, NO_KEY)
    assert err.count("no key") == 1
    head = r"test +last \(epoch 1\) +best \(epoch 1\)"
    only(
        out,
        head,
        r"\w+ +\d\.\d{4} +\d\.\d{4}",
        r"records.*: results/.*",
        r"next: ray-kd export [0-9a-f]{8} .*",
    )
    assert len(offline_runs(tmp_path / "results")) == 1


@pytest.mark.ray
def test_a_sweep_says_only_what_it_does_and_tracks_each_trial(sweep_file: Path, tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "sweep", sweep_file, "base.tracking.wandb=offline", "resources.cpus=0.5")
    assert code == 0, err
    only(err, PROGRESS, SWEPT)
    table, _, places = out.partition("tables, plots and report: ")
    lines = places.splitlines()
    assert lines[:2] == ["results/sweeps/small", "  open results/sweeps/small/report.html"]
    assert lines[2].startswith("best student by validation: “")
    command = shlex.split(lines[3])
    assert command == ["ray-kd", "export", "small", "--best", "--to=exported/small"]
    code, said, err = run(tmp_path, *command[1:])
    assert (code, err) == (0, "")
    assert "exported: exported/small" in said
    assert (tmp_path / "exported" / "small" / "student.pt2").exists()
    assert max(map(len, table.splitlines())) <= 80
    assert not re.search(r"warn|wandb|\(pid=|Traceback", out, flags=re.IGNORECASE)

    runs = offline_runs(tmp_path / "results")
    trials = SweepSpec.load(sweep_file).plan().trials
    assert runs.keys() == {trial.identity for trial in trials}
    for trial in trials:
        (begin,) = [record.run for record in runs[trial.identity] if record.HasField("run")]
        assert (begin.run_group, begin.display_name) == ("small", trial.spec.name)
        assert [row["epoch"] for row in history(runs[trial.identity])] == [1, 2, 3]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(run_file: Path, tmp_path: Path) -> None:
    command = ["train", run_file, "paths=[]", "teacher=null", "training.epochs=120"]
    process, until = start(tmp_path, *command), time.monotonic() + 90
    while not (files := list(tmp_path.glob("results/runs/*/epochs.jsonl"))) or not files[0].read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert re.search(r"\nray-kd: stopped .*; the same command resumes from here\.\n$", err)
    assert "Traceback" not in err
    code, _, err = run(tmp_path, *command)
    assert code == 0, err
    epochs = [json.loads(line)["epoch"] for line in files[0].read_text().splitlines()]
    assert epochs == list(range(1, 121))

"""What is on the screen is ours: every line of it is known, W&B and Ray included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ray_kd.config.sweep import SweepSpec
from tests.tracking.test_wandb import history, offline_runs

ROOT = Path(__file__).parents[2]
TRAINED = r"tiny(-teacher)?: epoch \d/\d  loss \d\.\d+  val top1 0\.\d+(  \d+ s left)?"
PROGRESS = r"small: \d of \d trials done, \d running, \d waiting, 0 failed.*elapsed.*"
SWEPT = r"small: 4 of 4 trials finished \(5 started now, \d+:\d\d\)"
NO_KEY = r"W&B has no key: tracking offline; .*"


def run(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as on a machine that knows nothing of W&B."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "RAY"))}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ray_kd", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)


def only(text: str, *patterns: str) -> None:
    """Every line is one of these."""
    for line in text.splitlines():
        assert any(re.fullmatch(pattern, line) for pattern in patterns), f"not ours: {line!r}"


def test_train_says_only_what_it_does(run_file: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "train", run_file, "training.epochs=1", "tracking.wandb=online")
    assert done.returncode == 0, done.stderr
    only(done.stderr, TRAINED, NO_KEY)
    assert done.stderr.count("no key") == 1
    shown = r"test +loss +top1.*", r"(last|best) \(epoch 1\) +\d\.\d{4}.*", r"records and weights: results/.*"
    only(done.stdout, *shown, r"next: ray-kd sweep .*")
    assert len(offline_runs(tmp_path / "results")) == 1


@pytest.mark.slow
def test_a_sweep_says_only_what_it_does_and_tracks_each_trial(sweep_file: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "sweep", sweep_file, "base.tracking.wandb=offline", "resources.cpus=0.5")
    assert done.returncode == 0, done.stderr
    only(done.stderr, PROGRESS, SWEPT)
    table, _, places = done.stdout.partition("tables, plots and report: ")
    assert places.split() == ["results/sweeps/small", "open", "results/sweeps/small/report.html"]
    assert max(map(len, table.splitlines())) <= 80
    assert not re.search(r"warn|wandb|\(pid=|Traceback", done.stdout, flags=re.IGNORECASE)

    runs = offline_runs(tmp_path / "results")
    trials = SweepSpec.load(sweep_file).plan().trials
    assert runs.keys() == {trial.identity for trial in trials}
    for trial in trials:
        (begin,) = [record.run for record in runs[trial.identity] if record.HasField("run")]
        assert (begin.run_group, begin.display_name) == ("small", trial.spec.name)
        assert [row["epoch"] for row in history(runs[trial.identity])] == [1, 2, 3]

    again = run(tmp_path, "sweep", sweep_file)
    only(again.stderr, r"small: 4 of 4 trials finished")
    assert again.stdout == done.stdout

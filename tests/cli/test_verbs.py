"""Every verb as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from tests.analysis.make_records import make_records
from tests.cli.conftest import Cli


def test_train_and_teacher(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    changes = ["training.epochs=2", "aggregation=adaptive", "paths.1.weight=3"]
    spec = RunSpec.load(run_file, *changes, f"storage={storage}")
    taught = cli("teacher", run_file, "--storage", storage)
    assert taught.code == 0
    assert "tiny-teacher: test top1 0." in taught.out
    (teacher,) = (storage / "runs").iterdir()
    written = (teacher / "summary.json").stat().st_mtime_ns

    said = cli("train", run_file, *changes, "--storage", storage)
    assert said.code == 0
    assert "tiny-teacher" not in said.err, "the teacher was there"
    assert "tiny: epoch 2/2" in said.err
    folder = storage / "runs" / spec.identity()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert str(folder) in said.out
    assert f"{summary['best']['test']['top1']:.4f}" in said.out
    assert max(map(len, said.out.splitlines()[:3])) <= 80
    assert (teacher / "summary.json").stat().st_mtime_ns == written

    again = cli("train", run_file, *changes, "--storage", storage)
    assert again.code == 0
    assert again.err == "", "it had ended: nothing trains"
    assert again.out == said.out
    fresh = cli("train", run_file, *changes, "--storage", storage, "--fresh")
    assert "epoch 2/2" in fresh.err
    assert fresh.out == said.out, "the same spec, the same numbers"


@pytest.mark.outcome
def test_a_loss_that_becomes_nan_ends_with_its_reason(
    cli: Cli, run_file: Path, tmp_path: Path, seed_shift: int
) -> None:
    storage, seed = tmp_path / "results", f"seed={seed_shift}"
    said = cli("train", run_file, "paths=[]", "teacher=null", "optimizer.lr=1e20", seed, "--storage", storage)
    assert said.code == 1
    (message,) = [line for line in said.err.splitlines() if ": epoch" not in line]
    assert message.startswith("ray-kd: training failed: the task loss became NaN")
    assert "optimizer.clip" in message


def test_a_plan_is_printed_and_nothing_runs(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    said = cli("sweep", sweep_file, "--plan", "--storage", storage, "seeds=[0,1,2]")
    assert said.code == 0
    assert "6 trials, of which 0 have ended; 1 of 1 teachers to train." in said.out
    cells = [line.split()[0] for line in said.out.splitlines() if line.endswith("3 to run")]
    assert cells == ["alone", "taught"]
    assert "with probability 0.8, at 3 seeds (1 strategy)" in " ".join(said.out.split())
    said = cli("sweep", sweep_file, "--plan", "--trials", "--storage", storage)
    for trial in SweepSpec.load(sweep_file).plan().trials:
        (line,) = [line for line in said.out.splitlines() if trial.identity in line]
        assert line.split()[:3] == [trial.cell, "compare", str(trial.seed)]
        assert len(line) <= 80
    assert not storage.exists()


def test_a_plan_says_what_stored_targets_come_to(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    said = cli("sweep", sweep_file, "--plan", "--storage", storage, "base.targets=stored")
    assert said.code == 0
    figures = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if " float" in line}
    assert figures["logits"] == ["train", "10", "float16", "20", "360", "7.2", "kB"]
    said_all = " ".join(said.out.split())
    total = 360 * 20 + (359 + 539) * 40
    assert f"{total / 1000:.3g} kB of shards, and {total / 1000:.3g} kB for each machine's" in said_all
    assert f"{2 * total / 1000:.3g} kB on one machine. The teacher computes them in" in said_all
    assert "a live teacher would need" in said_all
    assert "of the teacher's time." in said_all, "two trials show each view once, and ask twice"
    assert not storage.exists()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with a sweep, one trial of which failed."""
    root = tmp_path_factory.mktemp("records")
    return make_records(root, statuses={("equal weights", 1): "failed"})


def test_status_says_where_every_trial_stands(cli: Cli, records: Path) -> None:
    said = cli("status", records)
    assert said.code == 0
    assert max(map(len, said.out.splitlines()[:8])) <= 80
    (row,) = [line for line in said.out.splitlines() if line.startswith("equal weights")]
    assert row.split()[2:] == ["4", "1"]
    assert "failed: equal weights, seed 1:" in said.out
    (trace,) = [line.split(": ")[1] for line in said.out.splitlines() if "traceback" in line]
    assert Path(trace).name == "error.txt"
    assert cli("status", records, "--sweep", "digits").out == said.out


def test_status_lists_the_runs_where_no_sweep_knows_them(cli: Cli, records: Path, tmp_path: Path) -> None:
    said = cli("status", records, "--runs")
    identities = sorted(folder.name for folder in (records / "runs").iterdir())
    assert said.code == 0
    assert [name for name in identities if name not in said.out] == []
    shutil.copytree(records / "runs" / identities[0], tmp_path / "runs" / identities[0])
    said = cli("status", tmp_path)
    assert said.code == 0
    assert [name for name in identities if name in said.out] == identities[:1]


def test_analyze_and_report(cli: Cli, records: Path, tmp_path: Path) -> None:
    said = cli("analyze", records, "--out", tmp_path / "paper")
    assert said.code == 0
    files = {Path(line).name for line in said.out.splitlines() if str(tmp_path) in line}
    assert {"trials.parquet", "table.md", "table.csv", "report.html", "comparison.png"} <= files
    assert pq.read_table(tmp_path / "paper" / "tables" / "trials.parquet").num_rows > 0
    assert "equal weights" in said.out
    assert max(len(line) for line in said.out.splitlines() if str(tmp_path) not in line) <= 80
    said = cli("report", records, "--out", tmp_path / "send")
    assert said.out.split() == [str(tmp_path / "send" / "report.html")]
    assert "<html" in (tmp_path / "send" / "report.html").read_text()


def test_doctor_says_what_there_is_and_what_to_do(cli: Cli, tmp_path: Path) -> None:
    said = cli("doctor", "--storage", tmp_path / "new")
    assert said.code == 0
    for word in ("Python 3", "torch 2", "GPUs:", "operators work", "ray 2", "W&B", "is writable"):
        assert word in said.out
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    said = cli("doctor", "--storage", tmp_path / "file" / "below")
    assert said.code == 1
    assert "MISSING storage" in said.out
    assert "A file lies where a folder is needed" in said.out

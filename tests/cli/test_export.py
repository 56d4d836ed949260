"""Taking a student out of a sweep, and pruning it, as a user does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ray_kd import distill
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from tests.cli.conftest import Cli
from tests.data.formats import make_folder


@pytest.fixture
def swept(sweep_file: Path, tmp_path: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A storage with the sweep, all trials finished, and their summaries by identity."""
    storage = tmp_path / "results"
    plan = SweepSpec.load(sweep_file, f"base.storage={storage}").plan()
    found = {trial.identity: distill(trial.spec) for trial in plan.trials}
    (storage / "sweeps" / "small").mkdir(parents=True)
    (storage / "sweeps" / "small" / "plan.json").write_text(json.dumps(plan.to_json()))
    return storage, found


def test_a_student_of_a_sweep_is_exported(
    cli: Cli, swept: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    storage, summaries = swept
    best = max(summaries, key=lambda identity: summaries[identity]["best"]["val"]["top1"])
    to = tmp_path / "out"

    said = cli("export", "small", "--to", to, "--storage", storage)
    assert said.code == 2
    assert "4 finished students. Which? --best" in said.err
    assert all(identity in said.err for identity in summaries)
    assert "taught, seed 1" in said.err
    said = cli("export", "small:alone", "--to", to, "--storage", storage)
    assert said.code == 2
    assert "2 finished students" in said.err
    said = cli("export", "small:tought", "--best", "--to", to, "--storage", storage)
    assert said.code == 2
    assert "Did you mean 'taught'?" in said.err
    said = cli("export", best, "--best", "--to", to, "--storage", storage)
    assert said.code == 2
    assert "--best: expected the name of a sweep, one of small" in said.err
    assert not to.exists()

    shown = cli("status", storage)
    value = summaries[best]["best"]["val"]["top1"]
    assert f"(top1 {value:.4f} there, on which the choice among 4 rests)" in shown.out
    command = shlex.split(shown.out.strip().splitlines()[-1])
    assert command[:4] == ["ray-kd", "export", "small", "--best"]
    said = cli(*command[1:4], "--to", to, "--storage", storage, "--as", "torch.export")
    assert said.code == 0, said.err
    test = summaries[best]["best"]["test"]["top1"]
    assert f"run {best}: test top1 {test:.4f}, the same on 539 replayed samples" in said.out
    assert json.loads((to / "export.json").read_text())["run"] == best


def test_nothing_finished_is_no_best_student(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    (storage / "sweeps" / "small").mkdir(parents=True)
    plan = SweepSpec.load(sweep_file).plan()
    (storage / "sweeps" / "small" / "plan.json").write_text(json.dumps(plan.to_json()))
    shown = cli("status", storage)
    assert shown.code == 0
    assert "best student" not in shown.out
    said = cli("export", "small", "--best", "--to", tmp_path / "out", "--storage", storage)
    assert said.code == 2
    assert "no finished student yet" in said.err


def test_prune_asks_first(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "results" / "runs" / "abc"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.pt").write_bytes(b"0" * 2000)
    figures = {"epoch": 1, "val": {}, "test": {}}
    (run / "summary.json").write_text(json.dumps({"status": "finished", "last": figures, "best": figures}))
    monkeypatch.setattr("typer.confirm", lambda question: "2 kB in 1 places" not in question)
    said = cli("prune", tmp_path / "results")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "Nothing was removed."
    assert (run / "checkpoints").exists()
    said = cli("prune", "--storage", tmp_path / "results", "--yes")
    assert said.out.splitlines()[-1] == "removed 2 kB"
    assert not (run / "checkpoints").exists()
    assert "Nothing can go." in cli("prune", tmp_path / "results").out
    assert cli("prune", tmp_path / "elsewhere").code == 2


def test_samples_of_a_split_are_listed(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "pets", 12)
    arguments = ("list", "datasets", "image_folder", f"root={tmp_path / 'pets'}", "size=16", "--split")
    said = cli(*arguments, "test")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "test: 24 samples; the first 20 above, --all lists them all"
    assert len(said.out.splitlines()) == 22
    assert said.out.splitlines()[1].split()[1] == "bright"
    assert "0.jpg" in said.out
    assert len(cli(*arguments, "test", "--all").out.splitlines()) == 26
    assert cli(*arguments, "tst").code == 2
    assert cli("list", "paths", "--split", "test").code == 2


def test_class_names_and_splits_are_on_record(tmp_path: Path, run_file: Path) -> None:
    spec = RunSpec.load(
        run_file, "paths=[]", "teacher=null", "training.epochs=1", f"storage={tmp_path / 'r'}"
    )
    identity = distill(spec)["identity"]
    found = json.loads((tmp_path / "r" / "runs" / identity / "dataset.json").read_text())
    assert found["class_names"] == list("0123456789")
    assert found["image"] == [1, 8, 8]
    assert {name: split["samples"] for name, split in found["splits"].items()} == {
        "train": 120,
        "validation": 359,
        "test": 539,
    }
    assert len({split["ids"] for split in found["splits"].values()}) == 3

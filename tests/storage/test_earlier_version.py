"""A storage that the version before has written (commit d5f8f99, ``earlier/``): all of it is found.

It was written by ``ray-kd sweep sweep.yaml`` there. Tables, plots and mapped copies of targets are left out;
the storage's own path and the machine's name, which nothing reads, stand as ``results`` and ``a-host``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ray_kd.analysis import analyze
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill

WRITTEN = Path(__file__).parent / "earlier"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(WRITTEN, tmp_path / "results"))


def sweep_of(storage: Path) -> SweepSpec:
    return SweepSpec.load(storage / "sweep.yaml", f"base.storage={storage}")


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob(pattern) if file.is_file()
    }


def test_the_same_sweep_starts_nothing(storage: Path) -> None:
    result = run_sweep(sweep_of(storage), progress=False)
    assert (result.total, result.finished, result.started) == (2, 2, 0), result.message()
    assert result.exit_code == 0
    for part in ("runs", "targets"):
        assert files(storage / part) == files(WRITTEN / part)


def test_every_run_is_found_by_its_identity(storage: Path) -> None:
    plan = sweep_of(storage).plan()
    runs = {run.identity(): run for run in [*plan.teachers, *(trial.spec for trial in plan.trials)]}
    assert runs.keys() == {folder.name for folder in (WRITTEN / "runs").iterdir()}
    trained: list[object] = []
    for trial in plan.trials:
        assert distill(trial.spec, on_epoch=lambda *epoch: trained.append(epoch))["status"] == "finished"
    assert not trained
    assert files(storage / "runs") == files(WRITTEN / "runs")


def test_tables_are_made_of_it(storage: Path) -> None:
    found = analyze(storage, "earlier")
    assert {cell.name: cell.n for cell in found.comparison.cells} == {"alone": 1, "taught": 1}
    assert found.records.trials["incomplete"].isna().all()
    assert not found.left_out
    assert "taught" in Path(found.files["table.md"]).read_text()
    assert Path(found.files["report.html"]).exists()


def test_a_new_student_learns_from_its_teacher_and_stored_targets(storage: Path) -> None:
    """Neither is made again."""
    (taught,) = [trial.spec for trial in sweep_of(storage).plan().trials if trial.cell == "taught"]
    told: list[str] = []
    summary = distill(
        taught.model_copy(update={"seed": 1}), on_epoch=lambda spec, *epoch: told.append(spec.name)
    )
    assert summary["status"] == "finished"
    assert len(told) == 2, "the student's epochs"
    for pattern in ("*.parquet", "v*.json", "group.json", "store.json"):
        shards = files(storage / "targets", pattern)
        assert shards == files(WRITTEN / "targets", pattern)
    assert {name: (storage / "runs" / name).read_bytes() for name in files(WRITTEN / "runs")} == files(
        WRITTEN / "runs"
    )

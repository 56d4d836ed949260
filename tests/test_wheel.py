"""The wheel is what people install: built, installed where no clone is, and used there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from tests.helpers import TINY

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def call(*command: str | Path, at: Path) -> str:
    """What a command prints; nothing leads it back to the clone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=at, env={**environment, "COLUMNS": "80"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that has the wheel, and of this one all but ray-kd."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("ray_kd-*.whl")
    venv.create(folder / "venv", symlinks=True)
    commands = folder / "venv" / "bin"
    places = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    (Path(sysconfig.get_path("purelib", vars=places)) / "dependencies.pth").write_text(
        sysconfig.get_path("purelib") + "\n"  # files .pth in there, as that of a clone's, are not followed
    )
    into = ["--python", str(commands / "python"), "install", "--quiet", "--no-index", "--no-deps"]
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", *into, wheel, at=folder)
    return commands


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    where = call(installed / "python", "-c", "import ray_kd; print(ray_kd.__file__)", at=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "attention_transfer" in call(installed / "ray-kd", "list", "paths", at=tmp_path)


def test_a_packaged_sweep_is_planned_without_a_clone(installed: Path, tmp_path: Path) -> None:
    said = call(installed / "ray-kd", "sweep", "digits", "--plan", at=tmp_path)
    assert "student alone" in said
    assert "of which 0 have ended" in said
    assert not list(tmp_path.iterdir())


def test_a_run_trains_without_a_clone(installed: Path, tmp_path: Path) -> None:
    run = {**TINY, "paths": ["soft_target"], "training": {"epochs": 1, "batch_size": 30}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    said = call(installed / "ray-kd", "train", "run.yaml", at=tmp_path)
    assert "last (epoch 1)" in said
    assert len(list(tmp_path.glob("results/runs/*/student.safetensors"))) == 2, (
        "the teacher's and the student's"
    )

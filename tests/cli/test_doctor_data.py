"""``doctor --data``: what is measured, and what is said about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ray_kd.training.speed import Speed
from tests.cli.conftest import Cli
from tests.data.formats import make_folder
from tests.helpers import TINY


def speed(loader: float, model: float, processes: int) -> Speed:
    return Speed(loader, model, processes, in_memory=False, device="cuda", batch_bytes=1)


def test_who_waits() -> None:
    assert speed(400, 1000, 2).waits == "model"
    assert speed(400, 1000, 2).together == 400
    assert speed(400, 1000, 2).wanted == 6  # each reads 200: 1100 of them keep 1000 busy
    assert speed(1200, 1000, 2).waits == "loader"
    assert speed(1200, 1000, 2).together == 1000
    assert speed(1000, 1000, 0).waits == "model"  # one after the other
    assert speed(1000, 1000, 0).together == 500


@pytest.mark.slow
def test_both_are_measured_and_advice_is_given(cli: Cli, tmp_path: Path, run_file: Path) -> None:
    said = cli("doctor", "--data", run_file, "--storage", tmp_path / "s")
    assert said.code == 0, said.err
    figures = re.findall(r"^(?:loader alone|model alone|together) +([\d,]+) images/s", said.out, re.M)
    loader, model, together = (float(figure.replace(",", "")) for figure in figures)
    assert 0 < together <= min(loader, model)
    assert "from memory" in said.out
    make_folder(tmp_path / "pets")
    files = {"name": "image_folder", "root": str(tmp_path / "pets"), "size": 16, "validation": 0.2}
    run = {**TINY, "dataset": files, "views": "photo", "training": {"batch_size": 4}}
    run["teacher"] = {"model": TINY["teacher"]["model"]}
    run_file.write_text(yaml.safe_dump({**run, "paths": ["soft_target"]}))
    said = cli("doctor", "--data", run_file, "--storage", tmp_path / "s")
    assert "from files, resources.loaders=0" in said.out
    assert not (tmp_path / "s" / "runs").exists()  # nothing was trained


def test_a_missing_root_is_said_before_anything_is_measured(cli: Cli, tmp_path: Path, run_file: Path) -> None:
    run_file.write_text(
        yaml.safe_dump({**TINY, "dataset": {"name": "cifar10", "root": str(tmp_path / "no")}})
    )
    said = cli("doctor", "--data", run_file)
    assert said.code == 2
    assert "cifar-10-batches-py/" in said.err
    assert "Traceback" not in said.err

"""The command line as a user calls it, in this process where the process does not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ray_kd.cli.main import main
from tests.helpers import TINY


@dataclass
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Call ``ray-kd``, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of a second."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**TINY, "paths": ["soft_target", "nst"]}))
    return file


@pytest.fixture
def sweep_file(tmp_path: Path, run_file: Path) -> Path:
    """Two cells, two seeds."""
    file = tmp_path / "sweep.yaml"
    cells = {"alone": {"paths": []}, "taught": {"paths": ["soft_target"]}}
    sweep = {"name": "small", "base": run_file.name, "seeds": [0, 1], "baseline": "alone", "cells": cells}
    sweep["vary"] = ["student"]
    file.write_text(yaml.safe_dump(sweep))
    return file

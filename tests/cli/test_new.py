"""A package that ``ray-kd new`` writes passes its suite as it stands, is listed, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ray_kd.config.registry import REGISTRIES
from ray_kd.config.spec import RunSpec
from ray_kd.training.distill import distill
from tests.cli.conftest import Cli
from tests.helpers import TINY, registries_restored

ROOT = Path(__file__).parents[2]
WRONG = """
from ray_kd.plugin import ModelConformance

class TestWrong(ModelConformance):
    model = "digits_cnn"
    image = (1, 8, 8)
    unused = ("a_layer_that_is_not_there",)
"""


@pytest.fixture(params=["path", "aggregator"])
def made(request: pytest.FixtureRequest, tmp_path: Path, cli: Cli) -> tuple[str, str, Path]:
    """A kind, a name, and the folder that was written for them."""
    name, folder = f"fresh_{request.param}", tmp_path / "deep" / "folder"
    said = cli("new", request.param, name, folder)
    assert said.code == 0, said.err
    return request.param, name, folder


@pytest.fixture
def on_path(made: tuple[str, str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, Path]]:
    """The package importable here; what it registers is forgotten afterwards."""
    monkeypatch.syspath_prepend(made[2])
    with registries_restored():
        yield made
    del sys.modules[made[1]]


@pytest.mark.slow
def test_it_passes_its_suite_and_a_suite_that_fails_shows_values(made: tuple[str, str, Path]) -> None:
    _, name, folder = made
    (folder / "test_wrong.py").write_text(WRONG)
    wrong = "test_wrong.py::TestWrong::test_gradients_reach_every_parameter"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"test_{name}.py", wrong, "-W", "error::pytest.PytestWarning"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 20
    assert f"FAILED {wrong}" in done.stdout
    assert "assert set() == {'a_layer_that_is_not_there'}" in done.stdout


def test_it_is_listed_with_where_it_comes_from(
    on_path: tuple[str, str, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, name, folder = on_path
    assert name not in cli("list", f"{kind}s").out
    for arguments in ([], [f"{kind}s"], [f"{kind}s", name]):
        said = cli("list", *arguments, "--plugin", name)
        assert said.code == 0, said.err
        assert name in said.out
        assert f"[{name}]" in said.out if not arguments else f"from {name} " in said.out.replace("\n", " ")
    assert "power: number" in said.out
    assert "Exponent of the distance" in said.out or "How much smaller the factor" in said.out
    installed = folder / "kd.dist-info"  # as an installer writes it
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: kd-fresh\nVersion: 0.1.0\n")
    group = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    assert group == {"ray_kd.plugins": {name: name}}
    (installed / "entry_points.txt").write_text(f"[ray_kd.plugins]\n{name} = {name}\n")
    monkeypatch.setattr(REGISTRIES[f"{kind}s"], "_loaded", {"built-in"})
    assert f"from {name} (kd-fresh 0.1.0)" in cli("list", f"{kind}s", name).out


def test_it_trains_live_and_stored(on_path: tuple[str, str, Path], tmp_path: Path, cli: Cli) -> None:
    kind, name, folder = on_path
    use = {"paths": [name]} if kind == "path" else {"paths": ["soft_target", "nst"], "aggregation": name}
    scores = []
    for targets in ("live", {"source": "stored", "precision": "float32"}):
        storage = str(tmp_path / str(len(scores)))
        run = RunSpec.parse({**TINY, **use, "plugins": [name], "targets": targets, "storage": storage})
        summary = distill(run)
        assert summary["status"] == "finished"
        scores.append(summary["last"]["test"])
    assert scores[0] == scores[1]
    said = cli("sweep", folder / "sweep.yaml", "--plan")
    assert said.code == 0, said.err
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert list(sweep["cells"])[-1] == name
    assert all(cell in said.out for cell in sweep["cells"])


@pytest.mark.parametrize(
    ("kind", "name", "free"),
    [
        ("path", "soft_target", "soft_target_path"),
        ("path", "My-Path", "my_path"),
        ("path", "2d", "path_2d"),
        ("path", "class", "class_path"),
        ("path", "json", "json_path"),
        ("path", "größe", "gr_e"),
        ("aggregator", "equal", "equal_aggregator"),
        ("aggregator", "...", "aggregator"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(
    cli: Cli, tmp_path: Path, kind: str, name: str, free: str
) -> None:
    said = cli("new", kind, name, tmp_path / "there")
    assert said.code == 2
    assert f"'{name}'" in said.err
    assert f"Free: '{free}'." in said.err
    assert not (tmp_path / "there").exists()


def test_nothing_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    said = cli("new", "path", "another_path", tmp_path)
    assert said.code == 2
    assert "README.md" in said.err
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"
    assert cli("new", "path", "another_path", tmp_path / "README.md").code == 2
    said = cli("new", "paths", "another_path", tmp_path / "new")
    assert said.code == 2
    assert "'path'" in said.err

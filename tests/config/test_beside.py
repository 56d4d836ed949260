"""What a file names is found beside it, from any folder; what could be two things is refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_kd.cluster.probe import own_modules
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from tests.helpers import TINY

BLOCKS = "from torch import nn\n\ndef layer(a, b):\n    return nn.Linear(a, b)\n"
NETS = """
from torch import nn
from blocks_beside import layer

def build(classes, channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), layer(4 * channels, classes))
"""
MINE = {"name": "factory", "build": "nets_beside:build", "image_size": 8}
FOLDER = {"name": "image_folder", "root": "photos", "size": 8}


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of somebody's files, which is not the working directory; what it imports is forgotten."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("far", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "far" / "nets_beside.py").write_text(NETS)
    (tmp_path / "far" / "blocks_beside.py").write_text(BLOCKS)
    yield tmp_path / "far"
    for name in set(sys.modules) - known:
        if "beside" in name:
            del sys.modules[name]


def write(file: Path, data: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(data))
    return file


def plain(**changes: Any) -> dict[str, Any]:
    return {**TINY, "teacher": None, "paths": [], **changes}


def root_of(spec: RunSpec) -> str:
    return str(getattr(spec.dataset, "root"))  # noqa: B009 - of the options of one dataset


def test_a_root_is_found_beside_the_file_then_in_the_working_directory(far: Path) -> None:
    file = write(far / "run.yaml", plain(dataset=FOLDER))
    assert root_of(RunSpec.load(file)) == os.path.abspath("photos"), "it lies in neither"
    Path("photos").mkdir()
    in_working_directory = RunSpec.load(file)
    assert root_of(in_working_directory) == os.path.abspath("photos")
    Path("photos").rmdir()
    (far / "photos").mkdir()
    beside = RunSpec.load(file)
    assert root_of(beside) == str(far / "photos")
    assert root_of(RunSpec.load(os.path.relpath(file))) == str(far / "photos")
    assert beside.identity() == in_working_directory.identity()
    assert RunSpec.load(write(far.parent / "recorded.yaml", beside.to_dict())) == beside


def test_a_root_that_lies_in_both_is_refused_unless_it_is_one_folder(far: Path) -> None:
    file = write(far / "run.yaml", plain(dataset=FOLDER))
    (far / "photos").mkdir()
    Path("photos").symlink_to(far / "photos")
    assert root_of(RunSpec.load(file)) == str(far / "photos")
    Path("photos").unlink()
    Path("photos").mkdir()
    with pytest.raises(
        UserError, match=r"run\.yaml: dataset\.root: 'photos' lies beside.*far.*here.*absolute"
    ):
        RunSpec.load(file)
    for override in ("dataset.root=photos", "dataset={name: image_folder, root: photos, size: 8}"):
        assert root_of(RunSpec.load(file, override)) == os.path.abspath("photos"), "said where it is typed"


@pytest.mark.parametrize(("root", "found"), [(".", "."), ("..", ".."), ("./", "."), ("../far", ".")])
def test_the_file_s_own_folder_can_be_named(far: Path, root: str, found: str) -> None:
    file = write(far / "run.yaml", plain(dataset={**FOLDER, "root": root}))
    assert root_of(RunSpec.load(file)) == os.path.abspath(far / found)


def test_a_teacher_s_data_and_weights_are_found_too(far: Path) -> None:
    (far / "photos").mkdir()
    (far / "weights.pt").write_bytes(b"weights")
    teacher = {"model": "digits_cnn", "weights": "weights.pt", "dataset": {"root": "photos"}}
    spec = RunSpec.load(write(far / "run.yaml", plain(teacher=teacher, dataset=FOLDER)))
    assert spec.teachers["teacher"].dataset["root"] == str(far / "photos")
    assert spec.teachers["teacher"].weights == str(far / "weights.pt")
    (far / "initial").mkdir()
    teacher = {"model": "digits_cnn", "weights": "initial"}
    assert (
        RunSpec.load(write(far / "run.yaml", plain(teacher=teacher))).teachers["teacher"].weights == "initial"
    )


def test_a_base_s_root_lies_beside_the_base_and_a_cell_s_beside_the_sweep(far: Path) -> None:
    write(far / "bases" / "run.yaml", plain(dataset=FOLDER))
    cells = {
        "base's": {},
        "own": {"dataset.root": "others"},
        "whole": {"dataset": {**FOLDER, "root": "others"}},
    }
    sweep = {"name": "s", "base": "bases/run.yaml", "cells": cells, "seeds": [0]}
    for folder in ("bases/photos", "others", "photos"):
        (far / folder).mkdir()
    trials = SweepSpec.load(write(far / "sweep.yaml", sweep)).plan().trials
    found = {trial.cell: os.path.relpath(root_of(trial.spec), far) for trial in trials}
    assert found == {"base's": "bases/photos", "own": "others", "whole": "others"}
    inside = {**sweep, "base": plain(dataset=FOLDER)}
    first = SweepSpec.load(write(far / "sweep.yaml", inside)).plan().trials[0]
    assert root_of(first.spec) == str(far / "photos")
    Path("photos").mkdir()
    (far / "bases" / "photos").rmdir()
    first = SweepSpec.load(write(far / "sweep.yaml", sweep)).plan().trials[0]
    assert root_of(first.spec) == os.path.abspath("photos"), "the folder beside the sweep is not the base's"


def test_modules_beside_a_file_build_its_networks_and_are_known_to_workers(far: Path, tmp_path: Path) -> None:
    storage = str(tmp_path / "results")
    spec = RunSpec.load(write(far / "run.yaml", plain(student=MINE, storage=storage)))
    assert spec.code == (str(far),)
    assert str(far) not in sys.path[: len(sys.path) - 1], "last, so that it takes no library's place"
    assert distill(spec)["status"] == "finished"
    assert own_modules([spec]) == ("blocks_beside", "nets_beside")
    without = RunSpec.parse(plain(student=MINE, storage=storage))
    assert without.identity() == spec.identity(), "where code lies changes no run"
    for name in own_modules([spec]):
        del sys.modules[name]
    sys.path.remove(str(far))
    recorded = tmp_path / "results" / "runs" / spec.identity() / "spec.yaml"
    assert distill(recorded, fresh=True)["status"] == "finished", "its record says where its code lies"


def test_plug_ins_and_modules_of_cells_are_found(far: Path) -> None:
    (far / "plug_beside.py").write_text("")
    (far / "pack_beside").mkdir()
    (far / "pack_beside" / "inner.py").write_text(NETS)
    spec = RunSpec.load(write(far / "run.yaml", plain(plugins=["plug_beside"])))
    assert spec.code == (str(far),)
    assert "plug_beside" in sys.modules
    student = {**MINE, "build": "pack_beside.inner:build"}
    sweep = {"name": "s", "base": "../elsewhere/run.yaml", "seeds": [0], "cells": {"a": {"student": student}}}
    write(far.parent / "elsewhere" / "run.yaml", plain())
    loaded = SweepSpec.load(write(far / "sweep.yaml", sweep))
    assert loaded.plan().trials[0].spec.code == (str(far),)
    sweep["cells"] = {"a": {"student.build": "nets_beside:build", "student.name": "factory"}}
    assert SweepSpec.load(write(far / "sweep.yaml", sweep)).base["code"] == [str(far)]


def test_a_module_that_python_has_from_elsewhere_is_refused(
    far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = far.parent / "other"
    other.mkdir()
    (other / "nets_beside.py").write_text("def build(classes, channels):\n    raise AssertionError\n")
    file = write(far / "run.yaml", plain(student=MINE))
    monkeypatch.syspath_prepend(str(other))
    with pytest.raises(UserError, match=r"module 'nets_beside' .*far.*other.*another name"):
        RunSpec.load(file)
    (other / "nets_beside.py").write_text(NETS)
    assert RunSpec.load(file).code == (str(far),), "a copy is the same module"
    (far / "json.py").write_text("")
    with pytest.raises(UserError, match=r"module 'json' of this run"):
        RunSpec.load(write(far / "run.yaml", plain(plugins=["json"])))


def test_modules_of_overrides_lie_in_the_working_directory(far: Path) -> None:
    file = write(far / "run.yaml", plain(student={**MINE, "build": "nots:build"}))
    Path("typed_beside.py").write_text(NETS)
    assert RunSpec.load(file, "student.build=typed_beside:build").code == (os.getcwd(),)
    assert RunSpec.load(file).code == ()


def test_code_can_be_said(far: Path) -> None:
    file = write(far / "runs" / "run.yaml", plain(student=MINE, code=[".."]))
    assert RunSpec.load(file).code == (str(far),)
    with pytest.raises(UserError, match=r"code"):
        RunSpec.load(write(far / "run.yaml", plain(code={"folder": "x"})))

"""The tutorials work as they are printed: their files, their commands, their notebook.

`python -m tests.test_tutorials` runs the notebook and writes its outputs into it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from ray_kd import distill
from ray_kd.cli.main import main
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.export import export_run
from tests.test_shown_code import commands, parsed, told

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOK = TUTORIALS / "notebook.ipynb"

PAGES = {"photos_timm": "photos", "segformer": "segformer", "detector": "detector"}
"""The folder of files that belongs to each page."""

SHORT: dict[str, dict[str, Any]] = {
    "photos": {"dataset.labels": 100, "training.epochs": 1, "teacher.training.epochs": 1},
    "segformer": {"training.epochs": 1, "teacher.training.epochs": 1},
    "detector": {
        "dataset.train": 40,
        "dataset.labels": 16,
        "training.epochs": 1,
        "teacher.training.epochs": 1,
    },
}
"""Overrides with which a tutorial's run takes seconds and learns nothing."""


def shell(page: str) -> list[list[str]]:
    """The commands of a page, in their order."""
    return [words for block in told(f"docs/tutorials/{page}.md", "shell") for words in commands(block.text)]


@pytest.fixture
def at_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the reader's own, where no clone is."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied(folder: str, to: Path) -> Path:
    """A tutorial's files at the reader's, with the data that its script makes; the reader is there."""
    mine = to / f"my-{folder}"
    shutil.copytree(TUTORIALS / folder, mine)
    os.chdir(mine)
    if (mine / "make_photos.py").exists():
        python("make_photos.py", "photos")
    return mine


def python(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_its_files_as_they_are(page: str) -> None:
    folder = TUTORIALS / PAGES[page]
    assert {block.text for block in told(f"docs/tutorials/{page}.md", "yaml")} == {
        file.read_text() for file in folder.glob("*.yaml")
    }
    text = (TUTORIALS / f"{page}.md").read_text()
    for file in folder.iterdir():
        assert f"({PAGES[page]}/{file.name})" in text, f"{file.name} is not mentioned"
    assert len(text.splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_can_be_read(page: str, at_the_reader: Path) -> None:
    mine = at_the_reader / "mine"
    shutil.copytree(TUTORIALS / PAGES[page], mine)
    os.chdir(mine)
    verbs = set()
    for words in shell(page):
        if words[0] == "ray-kd":
            parsed(words[1], words[2:])
            verbs.add(words[1])
        elif words[0] == "python":
            assert (mine / words[1]).exists(), words
        elif words[0] == "cp":
            assert (ROOT / words[-2]).is_dir(), words
    assert "export" in verbs
    assert verbs & {"train", "sweep"}


@pytest.mark.parametrize("folder", PAGES.values())
def test_the_files_of_a_tutorial_can_be_planned(
    folder: str, at_the_reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `ray-kd sweep --plan`, which builds the networks; a run as the base of a sweep of one cell."""
    mine = copied(folder, at_the_reader)
    if not (mine / "sweep.yaml").exists():
        alone = {
            "name": folder,
            "base": "run.yaml",
            "seeds": [0],
            "cells": {"alone": {"paths": []}, "taught": {}},
        }
        (mine / "sweep.yaml").write_text(yaml.safe_dump(alone))
    with pytest.raises(SystemExit) as end:
        main(["sweep", "sweep.yaml", "--plan"])
    assert not end.value.code
    said = capsys.readouterr().out
    assert f"{len(SweepSpec.load('sweep.yaml').plan().trials)} trials" in said
    assert "1 of 1 teachers to train" in said


@pytest.mark.exhaustive
@pytest.mark.parametrize("folder", PAGES.values())
def test_a_tutorial_runs_to_its_end(folder: str, at_the_reader: Path) -> None:
    """A short training, the export as the page has it, and what the reader does with the file of ONNX."""
    copied(folder, at_the_reader)
    short = [f"{key}={value}" for key, value in {**SHORT[folder], "teacher.at_chance": "go_on"}.items()]
    identity = RunSpec.load("run.yaml", *short).identity()
    assert distill(RunSpec.load("run.yaml", *short))["status"] == "finished"
    (export,) = [words for words in shell({f: p for p, f in PAGES.items()}[folder]) if words[1] == "export"]
    forms = export[export.index("--as") + 1].split(",")
    done = export_run("results", identity, "exported", forms)
    assert "onnx" in done.forms
    (use,) = [words for words in shell({f: p for p, f in PAGES.items()}[folder]) if words[1] == "use.py"]
    said = python(*use[1:])
    assert said.count("\n") >= 2


def book() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: Any) -> str:
    """Of the code alone: words between the cells may change while the outputs stay."""
    return hashlib.sha256("\n\n".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:16]


def executed(folder: Path) -> Any:
    """The notebook, run from its first cell to its last one in a folder."""
    from nbclient import NotebookClient

    notebook = book()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    client = NotebookClient(notebook, timeout=550, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    notebook.metadata["executed"] = digest(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which no reader needs
    return notebook


def kinds(notebook: Any) -> list[list[tuple[str, ...]]]:
    """What each cell puts out: text, a figure; the texts differ from machine to machine."""
    return [
        list(dict.fromkeys((output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs))
        for cell in code_cells(notebook)
    ]


def test_the_notebook_holds_the_outputs_of_its_code() -> None:
    """Those of one machine: `python -m tests.test_tutorials` writes them anew after a change of code."""
    notebook = book()
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert notebook.metadata["executed"] == digest(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    found = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in found
    assert "display_data" in found  # the weights over the epochs
    assert all(
        output.name == "stdout" for cell in cells for output in cell.outputs if output.output_type == "stream"
    )


@pytest.mark.slow
def test_the_notebook_runs_and_puts_out_what_it_shows(tmp_path: Path) -> None:
    """All of it, as long as it takes; its own assertions are about the exported student."""
    assert kinds(executed(tmp_path)) == kinds(book())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(Path(folder)), NOTEBOOK)

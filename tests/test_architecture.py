"""The rules of docs/architecture.md, read from the code: floors, who may import what, sizes."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers import TINY

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ray_kd"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    ["config", "statistics", "version"],
    ["storage", "outputs", "random_streams", "boxes"],
    ["models", "data", "paths", "aggregation"],
    ["tasks", "teacher"],
    ["targets"],
    ["training", "trials"],
    ["cluster", "tracking", "analysis", "export"],
    ["cli"],
]
"""From the ground up, as in docs/architecture.md."""

FREE = {
    "testing": "conformance suites look at every room they test",
    "plugin": "names what other people's code may use, of every room",
    "": "ray_kd.__init__ names the face",
    "__main__": "calls cli",
}
"""Rooms that stand outside the floors, with the reason; nothing but tests and plug-ins may import them."""

TENSORS = {"paths", "aggregation"}
"""Rooms that know tensors: no dataset, no model, nor each other."""

NO_DATASET = {"ray_kd.data.draws": "random numbers by key, which views and spoilt targets both draw"}
"""Modules of ``data`` that those rooms may import all the same, with the reason."""

LIMITED = {
    "ray": {"cluster"},
    "wandb": {"tracking", "analysis"},
    "wandb_workspaces": {"tracking", "analysis"},
}
"""Packages that only these rooms import."""

FILE_LINES, FUNCTION_LINES = 350, 60
LONG = {
    "tests/analysis/make_records.py:make_records": "a storage folder, written down from top to bottom",
}
"""Files and functions over the limit ("file" or "file:function"), each with the reason."""


def room(file: Path) -> str:
    """The room a file lies in: the folder below ray_kd, or the module's own name."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py").replace("__init__", "")


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield node.module or ""
            if node.module == "ray_kd":
                yield from (f"ray_kd.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_stands_on_a_floor_that_the_documentation_shows() -> None:
    known = {name for rooms in FLOORS for name in rooms} | FREE.keys()
    assert {room(file) for file in FILES} <= known
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = next(block for block in text.split("```") if block.strip().startswith("cli\n"))
    drawn = [line.replace(".py", "").split() for line in drawing.strip().splitlines()]
    assert [sorted(rooms) for rooms in reversed(drawn)] == [sorted(rooms) for rooms in FLOORS]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_or_stay(file: Path) -> None:
    here = room(file)
    for module in imports(file):
        top, _, rest = module.partition(".")
        assert here in LIMITED.get(top, {here}), f"{file}: only {LIMITED[top]} may import {top}"
        there = rest.partition(".")[0]
        if top != "ray_kd" or here in FREE or there == here or not (PACKAGE / there).is_dir():
            continue
        assert there not in FREE or not there, f"{file} imports {module}, which is for tests"
        if there:
            assert floor(there) <= floor(here), f"{file} imports {module}: up from {here} to {there}"
        if here in TENSORS and module not in NO_DATASET:
            assert there not in {"models", "data"} | TENSORS, f"{file} knows of {there}"


CIRCLES = {("ray_kd.config.plan", "ray_kd.config.sweep"): "a sweep plans itself; its plan names it as a type"}
"""Files that import one another, with the reason."""


def imported(file: Path) -> set[str]:
    """The modules of this package that a file imports, inside functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray_kd"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES
}


def test_no_files_import_one_another_but_those_named_here() -> None:
    edges = {name: imported(file) - {name} for name, file in MODULES.items()}
    for one, other in CIRCLES:
        assert other in edges[one], f"no circle any more: take {one} and {other} off the list"
        assert one in edges[other], f"no circle any more: take {one} and {other} off the list"
        edges[one].remove(other)
    sorter = graphlib.TopologicalSorter(edges)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_scripts_of_analysis_need_no_cluster_and_the_package_needs_no_script() -> None:
    for file in FILES:
        assert not [name for name in imports(file) if name.partition(".")[0] == "analysis"], file
    for file in (ROOT / "analysis").glob("*.py"):
        assert not [name for name in imports(file) if name.startswith(("ray.", "ray_kd.cluster"))], file


BARE = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "wandb"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Blocker())
for name in ("ray", "wandb"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is not blocked")
import torch
import ray_kd, ray_kd.training.run
from ray_kd import RunSpec, create_aggregator, create_path, distill

torch.set_num_threads(1)
print(distill(sys.argv[1])["status"])
assert not {"ray", "wandb"} & sys.modules.keys()
"""


def test_a_run_needs_neither_ray_nor_wandb(tmp_path: Path) -> None:
    run = {**TINY, "paths": ["soft_target", "nst"], "aggregation": "adaptive", "storage": str(tmp_path / "r")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "run.yaml")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["finished"]


SHOWN_BY = {
    "print": {"config/screen.py"},
    "warn": set[str](),
    "escape": {"config/names.py"},
    "to_csv": {"analysis/table_text.py"},
    "echo": set(),
}
"""What puts texts on screens and into pages, and the only files that call it: they escape them."""
ALONE = "export/check.py"
"""Goes with an exported student and runs without ray-kd; it prints numbers and names of its own."""
SCREENS = {("sys.stdout", "write"), ("sys.stderr", "write")}


def test_all_that_people_see_goes_through_the_functions_that_escape_it() -> None:
    """A name, an error or a record of others is escaped wherever it appears, on screens to come as well."""
    for file in [*FILES, *(ROOT / "analysis").glob("*.py")]:
        place = str(file.relative_to(ROOT)).removeprefix("ray_kd/")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or place == ALONE:
                continue
            whole, _, called = ast.unparse(node.func).rpartition(".")
            where = f"{place}:{node.lineno}"
            if called in SHOWN_BY and whole != "re":
                assert place in SHOWN_BY[called], f"{where}: say(), show() or html() instead of {called}()"
            assert (whole, called) not in SCREENS, f"{where}: say() instead of {whole}.write()"
            ours = called == "getLogger" and ast.unparse(node.args[0]).strip("'").startswith(("__", "ray_kd"))
            assert not ours or place == "config/screen.py", f"{where}: config.screen.logger() instead"


def sizes() -> dict[str, int]:
    """Lines of every file, and of every function in it."""
    found = {}
    for file in [*FILES, *(ROOT / "analysis").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        found[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[f"{name}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    return found


def test_files_and_functions_stay_short() -> None:
    found = sizes()
    long = {name for name, lines in found.items() if lines > (FUNCTION_LINES if ":" in name else FILE_LINES)}
    assert long - LONG.keys() == set(), "shorten it, or list it in LONG with its reason"
    assert LONG.keys() - long == set(), "no longer long: take it off the list"

"""The examples of docstrings run, and say what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.helpers import registries_restored

PACKAGE = Path(__file__).parents[1] / "ray_kd"
MODULES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run_as_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty folder; what they register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    with registries_restored():
        found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0, f"no docstring that Python shows has the example of {name}"
    assert found.failed == 0, "see what doctest prints above"

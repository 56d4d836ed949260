"""What the documentation says is so: its code runs, its tables are the registry's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_plain_python_use_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One namespace, in order, in an empty folder; asserts on the page are part of it."""
    monkeypatch.chdir(tmp_path)
    code = blocks("python.md")
    assert len(code) >= 6
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)
    assert (tmp_path / "results" / "runs").is_dir()

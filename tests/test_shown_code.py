"""What the documentation says is so: its code runs, its tables are the registry's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ray_kd.aggregation import Aggregator
from ray_kd.aggregation.torchjd_methods import TorchjdAggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

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


def aggregator_table() -> str:
    """Every aggregator, as the registry and the classes say."""
    lines = [
        "| name | method | backwards | memory | static weights | options | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in AGGREGATORS.names():
        cls: type[Aggregator] = AGGREGATORS.get(name)
        if not cls.__module__.startswith("ray_kd."):
            continue
        method = (cls.__doc__ or "").partition(":")[0].strip()
        own = [option for option in cls.Options.model_fields if option not in AggregatorOptions.model_fields]
        star = "*" if issubclass(cls, TorchjdAggregator) else ""
        options = ", ".join(f"`{option}`" for option in own)
        lines.append(
            f"| `{name}`{star} | {method} | {cls.cost} | {cls.footprint} | {cls.static_weights} "
            f"| {options} | {cls.source} |"
        )
    return "\n".join(lines) + "\n"


MARKED = re.compile(r"(<!-- table: .*? -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def test_the_table_of_aggregators_is_the_registrys() -> None:
    """`python -m tests.test_shown_code` writes it anew."""
    found = MARKED.search((ROOT / "docs" / "aggregation.md").read_text())
    assert found is not None
    assert found[2] == aggregator_table()


def test_every_command_of_a_figure_is_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for script in re.findall(r"python ((?:benchmarks|analysis)/\w+\.py)", page.read_text()):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


if __name__ == "__main__":
    file = ROOT / "docs" / "aggregation.md"
    file.write_text(MARKED.sub(lambda found: found[1] + aggregator_table() + found[3], file.read_text()))

"""What the pages show is so: code runs, commands and files are valid, tables are the registry's."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from ray_kd.aggregation import Aggregator
from ray_kd.aggregation.torchjd_methods import TorchjdAggregator
from ray_kd.cli.main import app
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.yamlio import parse_yaml
from tests.helpers import registries_restored

ROOT = Path(__file__).parents[1]
PAGES = [
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))
]

NOT_RUN = {
    (
        "docs/export.md",
        "python",
    ): "it exports a sweep: tests/cli/test_export.py does the same; imports are tried",
    ("docs/tracking.md", "python"): "it needs W&B's service: tests/tracking runs the same; imports are tried",
    ("docs/utility.md", "python"): "a step of the reader's own loop, networks and data; imports are tried",
    ("docs/reference.md", "yaml"): "every key of a file: tests/config/test_reference.py holds it true",
}
"""Blocks of a page that are not run, by their language, with the reason."""

NOT_OURS = {
    "export": "the shell's own",
    "make": "the targets are looked up in the Makefile, and run by whoever follows the page",
    "pip": "installs",
    "pytest": "the tests that pages show are run from their Python blocks",
    "ray": "Ray's own command, which needs a cluster; of `ray job submit`, what it submits is ours",
    "source": "the shell's own",
    "wandb": "W&B's own command, which needs its service",
}
"""Commands in blocks of the shell that are not tried, with the reason."""

PARTS: dict[tuple[str, str], dict[str, Any]] = {
    ("docs/models.md", "taps"): {"student": {"name": "torchvision", "arch": "resnet18"}},
    ("docs/sweeps.md", "search"): {"cells": {"soft target": {"paths": ["soft_target"]}}},
    ("docs/sweeps.md", "seeds"): {"cells": {"student alone": {"paths": []}, "logits": {"paths": ["logits"]}}},
}
"""YAML blocks that are no file and none of its sections: page, first key, and what it is a part of."""


@dataclass
class Block:
    """A block of code on a page."""

    page: str
    number: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that its first line says it is, or goes on with."""
        found = re.match(r"# (\w+\.(?:py|yaml))\b", self.text)
        return found[1] if found else None

    @property
    def place(self) -> str:
        return f"{self.page}, block {self.number} ({self.language})"


def blocks(page: str) -> list[Block]:
    """The blocks of a page; those without a language that hold commands are of the shell."""
    found = []
    text = (ROOT / page).read_text(encoding="utf-8")
    for number, match in enumerate(
        re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    ):
        language, body = match[2], re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        if not language and commands(body):
            language = "shell"
        found.append(Block(page, number + 1, language, body))
    return found


def commands(text: str) -> list[list[str]]:
    """The commands in a block, as words without comments and variables; none where it shows other things."""
    lines = [re.split(r"\s#\s|\s{3,}|\s>\s", line)[0].strip() for line in text.splitlines()]
    first = {*NOT_OURS, "ray-kd", "python"}
    words = [shlex.split(line) for line in lines if re.match(r"([A-Z_]+=\S+ )*[a-z-]+( |$)", line)]
    bare = [[word for word in line if not re.match(r"[A-Z_]+=", word)] for line in words]
    return [line for line in bare if line] if bare and bare[0] and bare[0][0] in first else []


def told(page: str, language: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == language]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, with the project's sweeps and the README's files.

    What is imported from it, and what is registered, is forgotten afterwards.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    for block in told("README.md", "yaml"):
        (tmp_path / str(block.file)).write_text(block.text)
    shutil.copy("run.yaml", "RUN.yaml")
    shutil.copy("sweep.yaml", "SWEEP.yaml")
    before = set(sys.modules)
    with registries_restored():
        yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if told(page, "python")])
def test_python_runs_as_shown(page: str, scratch: Path) -> None:
    """In order, in one namespace; blocks that say which file they are become that file, its tests are run."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.file:
            with (scratch / block.file).open(
                "a" if ", continued" in block.text.split("\n")[0] else "w"
            ) as file:
                file.write(block.text)
            if block.file.startswith("test_"):
                run_tests(scratch, block.file)
        elif block.language == "python" and (page, "python") not in NOT_RUN:
            exec(compile(block.text, block.place, "exec"), names)
        elif block.language == "python":
            tree = ast.parse(block.text)
            tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec(compile(tree, block.place, "exec"), names)


def run_tests(folder: Path, file: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if told(page, "shell")])
def test_commands_are_valid(page: str, scratch: Path) -> None:
    """Options exist, run and sweep files with their overrides can be read, scripts are there."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for block in told(page, "yaml"):
        if block.file:  # on top of the README's, where it shows some keys only
            file = scratch / block.file
            file.write_text(
                yaml.safe_dump({**yaml.safe_load(file.read_text()), **yaml.safe_load(block.text)})
            )
    if page == "docs/extending.md":  # whose run names its own modules
        for block in told(page, "python"):
            if block.file:
                (scratch / block.file).write_text(block.text)
    for block in told(page, "shell"):
        for words in commands(block.text):
            if words[0] == "ray" and "ray-kd" in words:
                words = words[words.index("ray-kd") :]
            if words[0] == "python":
                assert (ROOT / words[1]).exists() or words[1] == "-m", block.place
            elif words[0] == "make":
                assert set(words[1:]) <= set(targets), block.place
            elif words[0] == "ray-kd":
                parsed(words[1], words[2:])
            else:
                assert words[0] in NOT_OURS, f"{block.place}: {' '.join(words)}"


def parsed(verb: str, arguments: list[str]) -> None:
    """Read a command of ray-kd as it would be before it does anything."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    found = command.make_context(verb, list(arguments)).params
    specs = {"train": RunSpec, "teacher": RunSpec, "precompute": RunSpec, "sweep": SweepSpec}
    if verb in specs:
        specs[verb].load(found["file"], *(found["overrides"] or ()))


@pytest.mark.parametrize("page", [page for page in PAGES if told(page, "yaml")])
def test_files_are_valid(page: str, scratch: Path) -> None:
    """As runs or sweeps; sections of one on top of a run of digits."""
    base = yaml.safe_load((ROOT / "sweeps" / "runs" / "digits.yaml").read_text())
    for block in told(page, "python"):
        if block.file and not block.file.startswith("test_"):
            (scratch / block.file).write_text(block.text)
            importlib.import_module(block.file.removesuffix(".py"))
    for block in told(page, "yaml"):
        data = parse_yaml(block.text, block.place)
        if (page, "yaml") in NOT_RUN:
            continue
        part = PARTS.get((page, next(iter(data))), {})
        data = {"student": {**part["student"], **data}} if "student" in part else {**part, **data}
        if set(data) - set(RunSpec.model_fields) - {"teacher"}:
            data = {
                "name": "shown",
                "base": base,
                "baseline": next(iter(data.get("cells", {})), None),
                **data,
            }
            data["base"] = base if isinstance(data["base"], str) else data["base"]
            assert SweepSpec.parse(data).name, block.place
        else:
            own = {key: base[key] for key in ("dataset", "student", "teacher") if f"{key}s" not in data}
            assert RunSpec.parse({**own, **data}).dataset, block.place


@pytest.mark.slow
def test_the_path_of_contributing_passes_the_suite(scratch: Path) -> None:
    (block,) = told("CONTRIBUTING.md", "python")
    (name,) = re.findall(r'register\("(\w+)"', block.text)
    suite = (
        f"from ray_kd.plugin import PathConformance\nclass TestShown(PathConformance):\n    path = {name!r}\n"
    )
    (scratch / "test_shown.py").write_text(f"{block.text}\n{suite}")
    run_tests(scratch, "test_shown.py")


def test_what_is_not_run_is_there() -> None:
    for page, language in NOT_RUN:
        assert told(page, language), f"no such block any more: take {page} off the list"
    for page, key in PARTS:
        assert any(block.text.startswith(f"{key}:") for block in told(page, "yaml")), f"{page}: {key}"


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


if __name__ == "__main__":
    file = ROOT / "docs" / "aggregation.md"
    file.write_text(MARKED.sub(lambda found: found[1] + aggregator_table() + found[3], file.read_text()))

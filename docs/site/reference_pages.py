"""Pages that ray-kd writes itself while the site is built, so that they cannot be out of date.

Its commands, every registered component with its options, and its public Python names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import ray_kd
from ray_kd import plugin
from ray_kd.cli.catalogue import Item, catalogue
from ray_kd.config.registry import REGISTRIES

ROOT = Path(__file__).parents[2]
REGISTER = "ray_kd.config.registry.Registry.register"


@cache
def reference_pages() -> tuple[tuple[str, str], ...]:
    """Each page by its place on the site."""
    components = [(f"reference/{kind}.md", component_page(kind)) for kind in REGISTRIES]
    return (
        ("reference/commands.md", commands()),
        ("reference/python.md", python_page()),
        ("reference/plugin.md", plugin_page()),
        *components,
    )


def commands() -> str:
    """Every verb with its arguments and options, as typer documents them."""
    text = subprocess.run(
        [sys.executable, "-m", "typer", "ray_kd.cli.main", "utils", "docs", "--name", "ray-kd"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = re.sub(r"^# .*", "# Commands", text.replace("\b", ""))
    text = re.sub(r"^(#+) `(.*)`$", r"\1 \2", text, flags=re.MULTILINE)
    # What the help indents (examples) is code.
    return re.sub(r"^([A-Z][\w ]*:)\n((?:  .*\n)+)", r"\1\n\n```text\n\2```\n", text, flags=re.MULTILINE)


def component_page(kind: str) -> str:
    items = catalogue(kind)
    lines = [
        f"# {kind.capitalize()}",
        "",
        f"What `ray-kd list {kind}` and `ray-kd list {kind} NAME` show: {len(items)} {kind}, each with its "
        f"options. A file names one of them alone, or with options, as `{{name: {items[0].name}, ...}}`.",
        "Below an option's name stand the kind of its value and its default.",
        "",
    ]
    if kind == "aggregators":
        lines += ["Backwards: backward passes per step; K is the number of losses of paths (or layers).", ""]
    if kind == "paths":
        lines += ["Weight: the static weight of its source, `weight: published`; the default is 1.", ""]
    lines += [*table_of(kind, items), ""]
    return "\n".join([*lines, *(line for item in items for line in component(kind, item))])


def table_of(kind: str, items: Iterable[Item]) -> list[str]:
    """A row for each component; what it is, up to the formula."""
    more = {"paths": ["weight"], "aggregators": ["backwards"]}.get(kind, [])
    lines = table(["name", *more, "what it is", "source"])
    for item in items:
        middle = {"paths": [f"{float(item.weight):g}"], "aggregators": [item.cost]}.get(kind, [])
        first = re.split(r"[:;,](?= [^:;,]*:math:)|[.;](?: |$)", item.summary)[0].rstrip(":")
        lines.append(row([f"[`{item.name}`](#{item.name})", *middle, first, item.source]))
    return lines


def component(kind: str, item: Item) -> list[str]:
    """The section of one component."""
    facts = [f"Source: {item.source}."] if item.source else []
    facts += [f"Tasks: {', '.join(item.tasks)}."] if item.tasks else []
    facts += [f"Published weight: {float(item.weight):g}."] if kind == "paths" else []
    facts += [f"Backwards for each step: {item.cost}."] if kind == "aggregators" else []
    doc = re.sub(r"^(Raises):\n +", r"**\1** ", item.doc, flags=re.MULTILINE)
    lines = [f"## {item.name}", "", " ".join(facts), "", doc, ""]
    lines = [re.sub(r"\bdocs/(\w+)\.md\b", r"[docs/\1.md](../\1.md)", line) for line in lines]
    if item.options:
        lines += table(["option", "what it does"])
        for option in item.options:
            value = f"{code(option.kind)}<br>{code(option.default)}"
            lines.append(row([f"`{option.name}`<br>{value}", option.help]))
    return [*lines, ""]


def table(heads: list[str]) -> list[str]:
    return [row(heads), row(["---"] * len(heads))]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    return f"<code>{text.replace('&', '&amp;').replace('<', '&lt;').replace('|', '&#124;')}</code>"


def python_page() -> str:
    names = [f"ray_kd.{name}" for name in ray_kd.__all__ if not name.startswith("_")]
    names += ["ray_kd.export.export_run", "ray_kd.export.Exported"]
    names += ["ray_kd.tracking.wandb.make_tracker", "ray_kd.training.run_context.local_context"]
    head = (
        "# Python\n\nThe public names of `ray_kd`, and those that the pages import besides. "
        "[In your own loop](../python.md) shows them at work."
    )
    return "\n\n".join([head, *(f"::: {name}" for name in names)])


def plugin_page() -> str:
    """The names of ray_kd.plugin under the headings that the comments in its ``__all__`` are."""
    text = Path(str(plugin.__file__)).read_text(encoding="utf-8").split("__all__ = [")[1].split("]")[0]
    parts = [
        "# For extensions: `ray_kd.plugin`",
        "The one module that an extension imports. [Extending](../extending.md) shows a path, an aggregator, "
        "a dataset and a model that are made of it.",
    ]
    for line in text.splitlines():
        comment = re.match(r" *# (.*)", line)
        if comment:
            parts.append(f"## {comment[1][0].upper()}{comment[1][1:]}")
        for name in re.findall(r'"(\w+)"', line):
            parts.append(plugin_part(name, getattr(plugin, name)))
    parts += ["## Every decorator", f"::: {REGISTER}\n    options:\n      heading_level: 3"]
    return "\n\n".join(parts)


def plugin_part(name: str, value: Any) -> str:
    """The section of one name: its docstring, or where it comes from."""
    if getattr(value, "__qualname__", "") == "Registry.register":
        return f"### {name}\n\nDecorator of a class, as [`register`][{REGISTER}] below."
    home = getattr(value, "__module__", "ray_kd").split(".")[0]
    if home not in ("ray_kd", "builtins"):
        return f"### {name}\n\n`{home}.{name}`, as {home} documents it."
    return f"::: ray_kd.plugin.{name}\n    options:\n      heading_level: 3"

"""ray-kd list."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated

import typer

from ray_kd.cli.catalogue import Item, catalogue
from ray_kd.cli.common import Overrides
from ray_kd.cli.taps import show_taps
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.registry import REGISTRIES, entry_points, load_plugins
from ray_kd.config.screen import say, show

FILES = ("run", "sweep")
Split = Annotated[
    str | None, typer.Option("--split", help="Of a dataset: the samples of this split.", show_default=False)
]
Every = Annotated[bool, typer.Option("--all", help="With --split: all of them, not the first 20.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="A module of yours to list, too.", show_default=False),
]
KNOWN = (*REGISTRIES, *FILES, "reference")
Schema = Annotated[bool, typer.Option("--schema", help="With run or sweep: a JSON schema, for editors.")]


def list_things(
    kind: Annotated[
        str | None, typer.Argument(help=f"One of: {', '.join(KNOWN)}.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Explain this one.", show_default=False)] = None,
    options: Overrides = None,
    taps: Annotated[bool, typer.Option("--taps", help="Of a model: its taps; options: KEY=VALUE.")] = False,
    schema: Schema = False,
    split: Split = None,
    every: Every = False,
    plugin: Plugins = None,
) -> None:
    """List what can be combined, and every key of a file.

    Of a kind: a table with name, source, cost and options. With a name: the
    formula, the source, and every option with its default. Installed plug-ins are
    listed with where they come from.

    Examples:
      ray-kd list paths
      ray-kd list aggregators adaptive
      ray-kd list paths --plugin my_package
      ray-kd list models timm model=convnext_atto size=64 --taps
      ray-kd list run                              every key of a run, explained
      ray-kd list run --schema > run.schema.json   for an editor to complete keys:
          begin run.yaml with   # yaml-language-server: $schema=run.schema.json
      ray-kd list reference                        the page docs/reference.md
      ray-kd list datasets digits labels=400 --split train   its samples
    """
    load_plugins(plugin or [])
    if taps:
        show_taps(kind, name, options or [])
        return
    if split is not None or options or every:
        from ray_kd.cli.samples import list_samples

        list_samples(kind, name, options or [], split, every)
        return
    plugins = bool(plugin or entry_points())
    if kind is None:
        _overview(plugins)
        return
    if kind not in KNOWN:
        raise unknown("kind", kind, KNOWN, "list")
    if schema and kind not in FILES:
        raise UserError(f"list {kind} --schema: there are JSON schemas of {' and '.join(FILES)} only.")
    if kind not in REGISTRIES:
        if name is not None:
            raise UserError(f"list {kind}: expected no name after it, got '{name}'.")
        say(_file(kind, schema))
        return
    items = catalogue(kind, plugins)
    if name is None:
        _table(kind, items)
        return
    found = {item.name: item for item in items}
    if name not in found:
        raise unknown(kind.removesuffix("s"), name, found)
    _explain(kind, found[name])


def _overview(plugins: bool) -> None:
    for kind in REGISTRIES:
        items = catalogue(kind, plugins)
        names = ", ".join(f"{item.name} [{item.origin}]" if item.origin else item.name for item in items)
        say(textwrap.fill(f"{kind + ':':<13}{names}", 80, subsequent_indent=" " * 13))
    say("\nExplain one: ray-kd list aggregators adaptive. Every key of a file: ray-kd list run (or sweep).")


def _file(kind: str, schema: bool) -> str:
    """A run or sweep file with every key, its JSON schema, or the page that explains both."""
    if schema:
        import json

        from ray_kd.config.schema import json_schema

        return json.dumps(json_schema(kind), indent=2)
    from ray_kd.config.reference import file_lines, reference

    return reference().rstrip("\n") if kind == "reference" else "\n".join(file_lines(kind))


def _table(kind: str, items: list[Item]) -> None:
    """A row for each component; its own options in a line of their own, so that 80 columns are enough."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    if kind == "aggregators":
        table.add_column("backwards", max_width=11)
    if kind == "paths":
        table.add_column("weight", justify="right", no_wrap=True)
    by_task = any(item.tasks for item in items)
    if by_task:
        table.add_column("tasks", no_wrap=True)
    table.add_column("source; options" if any(item.source for item in items) else "what it is; options")
    common = set.intersection(*({option.name for option in item.options} for item in items))
    for item in items:
        own = ", ".join(option.name for option in item.options if option.name not in common)
        middle = {"aggregators": [item.cost], "paths": [f"{float(item.weight):g}"]}.get(kind, [])
        if by_task:
            middle.append(" ".join(task[:3] for task in item.tasks))
        about = Text(item.source or item.summary)
        about.append(f"\nfrom {item.origin}" if item.origin else "")
        table.add_row(item.name, *middle, about.append(f"\n{own}" if own else "", style="dim"))
    show(table)
    say()
    for line in _notes(kind, items, common):
        say(textwrap.fill(line, 80, subsequent_indent="  "))


def _notes(kind: str, items: list[Item], common: set[str]) -> list[str]:
    notes = {
        "paths": "weight: the static weight its source uses ('weight: published'); the default is 1.",
        "aggregators": "backwards: backward passes per step; K: how many losses of paths (or layers).",
    }
    lines = [notes[kind]] if kind in notes else []
    tasks = dict.fromkeys(task for item in items for task in item.tasks)
    if tasks:
        lines.append(f"tasks: {', '.join(f'{task[:3]} {task}' for task in tasks)}.")
    elif kind in notes:
        lines.append(f"task: any ({', '.join(item.name for item in catalogue('tasks'))}).")
    if common:
        lines.append(f"all have the options: {', '.join(sorted(common))}.")
    return lines


def _explain(kind: str, item: Item) -> None:
    say(f"{item.name}   ({item.source})" if item.source else item.name)
    say(f"from {item.origin}\n" if item.origin else "")
    say(readable(item.doc))
    if item.tasks:
        say(f"\ntasks: {', '.join(item.tasks)}")
    if kind == "paths":
        say(f"\npublished weight: {float(item.weight):g}")
    if kind == "aggregators":
        say(f"\nbackwards per step: {item.cost}")
    if item.options:
        say("\noptions:")
    for option in item.options:
        say(f"  {option.name}: {option.kind} = {option.default}")
        if option.help:
            say(textwrap.indent(textwrap.fill(readable(option.help), 74), "      "))


def readable(text: str) -> str:
    """A docstring without its markup: formulas stay in TeX, which most readers of papers know."""
    return re.sub(r":math:`([^`]*)`", r"\1", text).replace("``", "'")

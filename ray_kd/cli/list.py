"""ray-kd list."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_kd.cli.catalogue import KINDS, Item, catalogue
from ray_kd.config.errors import unknown

WHAT = [*KINDS, "run", "sweep", "reference"]


def list_things(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(WHAT)}.")],
    name: Annotated[str | None, typer.Argument(help="Explain this one.", show_default=False)] = None,
) -> None:
    """What there is to combine; with a name: formula, source, options. `run`, `sweep`: a JSON schema;
    `reference`: a file with every key.

    Examples: ray-kd list paths;  ray-kd list aggregators adaptive;  ray-kd list run > run.schema.json
    """
    if kind not in WHAT:
        raise unknown("kind", kind, WHAT, "list")
    if kind in ("run", "sweep"):
        import json

        from ray_kd.config.schema import json_schema

        print(json.dumps(json_schema(kind), indent=2))
        return
    if kind == "reference":
        from ray_kd.config.reference import reference

        print(reference(), end="")
        return
    items = catalogue(kind)
    if name is None:
        _table(kind, items)
        return
    found = {item.name: item for item in items}
    if name not in found:
        raise unknown(kind.removesuffix("s"), name, found)
    _explain(kind, found[name])


def _table(kind: str, items: list[Item]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    if kind == "aggregators":
        table.add_column("backwards", no_wrap=True)
    if kind == "paths":
        table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("source" if any(item.source for item in items) else "what it is")
    table.add_column("options")
    common = set.intersection(*({option.name for option in item.options} for item in items))
    for item in items:
        own = ", ".join(option.name for option in item.options if option.name not in common)
        middle = {"aggregators": [item.cost], "paths": [item.weight]}.get(kind, [])
        table.add_row(item.name, *middle, item.source or item.summary, own)
    Console().print(table)
    if common:
        print(f"\nall have: {', '.join(sorted(common))}")


def _explain(kind: str, item: Item) -> None:
    print(f"{item.name}   ({item.source})\n" if item.source else f"{item.name}\n")
    print(item.doc)
    if kind == "paths":
        print(f"\npublished weight: {item.weight}")
    if kind == "aggregators":
        print(f"\nbackwards per step: {item.cost}")
    if item.options:
        print("\noptions:")
    for option in item.options:
        print(f"  {option.name}: {option.kind} = {option.default}")
        if option.help:
            print(f"      {option.help}")

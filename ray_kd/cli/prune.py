"""ray-kd prune."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ray_kd.cli.common import StorageOption
from ray_kd.config.errors import UserError
from ray_kd.config.screen import say, show

if TYPE_CHECKING:
    from ray_kd.storage.prune import Removable


def prune(
    folder: Annotated[
        str | None, typer.Argument(metavar="STORAGE", help="The storage folder; default: results.")
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", help="A run of no sweep that is to go whole; may be repeated.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: StorageOption = None,
) -> None:
    """Show how large each part of a storage is, and delete what no result needs.

    States of finished runs, copies of stored targets that a run makes again,
    and what killed processes left go after asking. Weights, records, tables
    and stored targets stay; a run goes only when it is named, and belongs to
    no sweep. What somebody is at work on is left alone.

    Examples:
      ray-kd prune
      ray-kd prune /shared/kd --yes
      ray-kd prune --run 3f2a91c0
    """
    from ray_kd.config.words import sized
    from ray_kd.storage import Store
    from ray_kd.storage.prune import removable, remove

    if folder is not None and storage is not None and folder != storage:
        raise UserError(f"prune: '{folder}' and --storage '{storage}' name two storages; give one of them.")
    store = Store(folder or storage or "results")
    if not store.exists(""):
        raise UserError(f"storage: there is nothing at '{store.path()}'.")
    sizes = store.sizes()
    items = removable(store, sizes, run or ())
    _print(sizes, items)
    total = sum(item.size for item in items)
    if not items:
        say("Nothing can go.")
        return
    if not yes and not typer.confirm(f"Remove {sized(total)} in {len(items)} places?"):
        say("Nothing was removed.")
        return
    kept = [item for item in items if not remove(store, item)]
    say(f"removed {sized(total - sum(item.size for item in kept))}")
    for item in kept:
        say(f"left alone: {store.path(item.path)} ({sized(item.size)}): somebody is at work there")


def _print(sizes: dict[str, int], items: list[Removable]) -> None:
    """A row for each kind of file: what it weighs, what of it can go, and what getting that back costs."""
    from rich.table import Table

    from ray_kd.config.words import sized
    from ray_kd.storage.prune import kind_of

    weighs = Counter[str]()
    for path, size in sizes.items():
        weighs[kind_of(path)] += size
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "weighs", "can go", "to get it back"):
        table.add_column(column, justify="right" if column in ("weighs", "can go") else "left")
    for kind in sorted({*weighs, *(item.what for item in items)}, key=lambda kind: -weighs[kind]):
        mine = [item for item in items if item.what == kind]
        share = sized(sum(item.size for item in mine)) if mine else ""
        table.add_row(kind, sized(weighs[kind]), share, mine[0].cost if mine else "")
    show(table)

"""ray-kd doctor --scan: read a whole dataset once and list its problems."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from ray_kd.cli.common import ProgressLine, shown
from ray_kd.config.screen import say, show

if TYPE_CHECKING:
    from ray_kd.data.scan import ScanResult

NAMED = 10
"""How many messages are shown in full."""

EXAMPLE = 28
"""Characters of a path's end that the table shows."""


def scan_dataset(file: str) -> None:
    """Read a run's dataset and print what was found; exit code 1 if a run would stop on it."""
    from ray_kd.config.errors import UserError
    from ray_kd.config.registry import DATASETS
    from ray_kd.config.spec import RunSpec
    from ray_kd.data.scan import ScanResult, checked_splits, default_readers, scan

    spec = RunSpec.load(file)
    budget = getattr(spec.dataset, "teacher_options", None)  # without a label budget: it hides samples
    whole = budget() if budget is not None else {}
    try:
        dataset = DATASETS.get(spec.dataset.component_name)(spec.dataset.model_copy(update=whole))
    except UserError as error:
        say(f"ray-kd: {error}", error=True)
        say("ray-kd: no sample was read: correct this first, then scan again.", error=True)
        raise typer.Exit(1) from error
    task = spec.task.component_name
    splits, classes = checked_splits(dataset), dataset.classes_of(task)
    found, show = ScanResult(splits, classes), ProgressLine()
    looked = scan(splits, default_readers(splits), task)
    stopped = False
    try:
        for some in looked:
            for one in some:
                found.add(one)
            if show.due():
                left = (time.monotonic() - show.began) / found.read * (found.total - found.read)
                show.show(f"read {found.read:,} of {found.total:,} samples, {left:.0f} s left")
    except KeyboardInterrupt:
        stopped = True
    finally:
        looked.close()
        show.end(f"\r{'':<78}\r")
    _print(spec.dataset.component_name, found)
    if stopped:
        say(f"ray-kd: stopped after {found.read:,} of {found.total:,} samples.", error=True)
        raise typer.Exit(130)
    if found.problems:
        raise typer.Exit(1)


def _print(name: str, found: ScanResult) -> None:
    from rich.table import Table

    from ray_kd.data.scan import spread

    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in ("split", "samples", "image sizes", "samples that show a class"):
        table.add_column(column, justify="right" if column == "samples" else "left")
    for split, count in found.samples.items():
        few, middle, most = spread(found.with_class[split], found.classes)
        balance = f"{few:,} to {most:,}, median {middle:,}" if found.with_class[split] else ""
        table.add_row(split, f"{count:,}", _sizes(found, split), balance)
    say(f"{name}: {found.read:,} samples read once, {found.classes} classes")
    show(table)
    rows = found.rows()
    if rows:
        say()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "found", "count", "for example"):
            table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
        for row in rows:
            table.add_row("STOPS" if row.stops else "note", row.what, f"{row.count:,}", _short(row.example))
        show(table)
    for where, message in found.problems[:NAMED]:
        say()
        say(message if where in message else f"{where}: {message}")
    if len(found.problems) > NAMED:
        say(f"\n{len(found.problems) - NAMED:,} more like these.")
    if not found.problems and found.read == found.total:
        say("\nok      no sample stops a run")


def _sizes(found: ScanResult, split: str) -> str:
    """The smallest and the largest image of a split, by area."""
    sizes = sorted(found.sizes[split], key=lambda size: (size[0] * size[1], size))
    if not sizes:
        return ""
    ends = [f"{width} x {height}" for height, width in (sizes[0], sizes[-1])]
    return ends[0] if len(sizes) == 1 else f"{ends[0]} to {ends[1]}"


def _short(example: str) -> str:
    """The end of a path, or of both paths of a pair."""
    sides = [shown(side) for side in example.split(" = ")]
    return "\n= ".join(side if len(side) <= EXAMPLE else f"...{side[3 - EXAMPLE :]}" for side in sides)

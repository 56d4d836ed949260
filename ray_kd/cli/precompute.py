"""ray-kd precompute, ray-kd verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_kd.cli.common import AddressOption, Overrides, StorageOption, find_file, shown
from ray_kd.config.screen import say, show

if TYPE_CHECKING:
    from ray_kd.config.spec import RunSpec


def precompute(
    file: Annotated[
        str, typer.Argument(metavar="FILE.yaml", help="A run or a sweep file.", callback=find_file)
    ],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print sizes and times, compute nothing.")] = False,
    storage: StorageOption = None,
    address: AddressOption = None,
) -> None:
    """Compute the teacher's targets once and store them for all trials.

    A pool of teachers computes the targets of all paths of the run or sweep,
    for each sample under each of views.count views. Targets that are stored
    are not computed again; after Ctrl-C the same command resumes.

    Examples:
      ray-kd precompute sweeps/runs/digits.yaml views.count=20 --plan
      ray-kd precompute sweeps/runs/digits.yaml views.count=20
      ray-kd precompute sweeps/digits.yaml base.targets.precision=float32

    Runs with targets=stored read them, and compute those that are missing.
    """
    specs, name = read_specs(file, tuple(overrides or ()), storage)
    if plan:
        from ray_kd.cluster.plan import targets_table

        show(targets_table(specs, name))
        return
    from ray_kd.cli.train import Line, make_setting, stop_on_signal
    from ray_kd.cluster.quiet import quiet
    from ray_kd.targets.compute import same_targets
    from ray_kd.training.distill import ensure_teachers
    from ray_kd.training.precompute import gather_work
    from ray_kd.training.process_cache import ProcessCache
    from ray_kd.training.run_context import local_context

    quiet()
    from rich.console import Console

    from ray_kd.cluster.precompute import precompute_cluster
    from ray_kd.cluster.progress import Counted

    line = Line()
    for spec in same_targets(specs):
        context = make_setting(spec)
        with stop_on_signal(context):
            ensure_teachers(spec, context, ProcessCache(), line)
        line.end()
    shards = Counted(name, Console(stderr=True))
    done = precompute_cluster(specs, address, shards, shards.tell)
    say(f"{done} shards stored." if done else "nothing to do: all targets are stored.")
    works = gather_work(specs, local_context(specs[0]), ProcessCache())
    for folder in sorted({work.source.store.files.path() for work in works}):
        say(f"  {shown(folder)}")
        say(f"  check it: ray-kd verify {shown(folder)}")


def verify(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A folder below targets/ of a storage.")],
    samples: Annotated[int, typer.Option(help="How many rows of each group to compute again.")] = 64,
) -> None:
    """Compare stored targets with the live teacher, and check every shard.

    The live teacher computes a random sample of rows again. The table shows
    each path's largest difference and the one that its precision allows. Exit
    code 1: it is larger; 2: teacher, views or a shard changed.

    Examples:
      ray-kd verify results/targets/7ac21c7f7e4100c1
      ray-kd verify results/targets/7ac21c7f7e4100c1 --samples 1000
    """
    from rich.table import Table

    from ray_kd.config.errors import UserError
    from ray_kd.storage import Store
    from ray_kd.training.run_context import RunContext, default_device
    from ray_kd.training.verify import verify as compare

    folder, _, identity = store.rstrip("/").rpartition("/")
    root, _, targets = folder.rpartition("/") if "/" in folder else ("." if folder else "..", "", folder)
    if targets != "targets":
        raise UserError(f"verify: expected a folder such as results/targets/7ac21c7f7e4100c1, got '{store}'.")
    context = RunContext(Store(root or "/"), default_device())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("target", "split", "rows", "largest difference", "allowed", ""):
        table.add_column(column, justify="left" if column in ("target", "split", "") else "right")
    found = list(compare(context.store, identity, context, samples))
    for one in found:
        figures = (str(one.rows), f"{one.difference:.2e}", f"{one.allowed:.2e}")
        table.add_row(one.column, one.split, *figures, "ok" if one.ok else "FAILED")
    show(table)
    broken = [one.column for one in found if not one.ok]
    if broken:
        say(
            f"ray-kd: verify: {', '.join(broken)}: stored and live targets differ by more than the stored "
            "precision allows. Delete the folder; the next run computes its targets again.",
            error=True,
        )
        raise typer.Exit(1)


def read_specs(file: str, overrides: tuple[str, ...], storage: str | None) -> tuple[list[RunSpec], str]:
    """The runs of a run or sweep file, with ``targets.source=stored`` set, and its name."""
    from ray_kd.config.spec import RunSpec
    from ray_kd.config.sweep import SweepSpec
    from ray_kd.config.yamlio import read_yaml

    place = (storage,) if storage else ()
    if "base" in read_yaml(Path(file)):
        extra = [*(f"base.storage={one}" for one in place), "base.targets.source=stored"]
        sweep = SweepSpec.load(file, *overrides, *extra)
        return [trial.spec for trial in sweep.plan().trials], sweep.name
    spec = RunSpec.load(file, *overrides, *(f"storage={one}" for one in place), "targets.source=stored")
    return [spec], spec.name

"""ray-kd sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_kd.cli.common import AddressOption, Overrides, StorageOption, find_file, say_left_out, shown, typed
from ray_kd.cli.export import best_lines
from ray_kd.config.errors import UserError
from ray_kd.config.screen import say, show
from ray_kd.config.words import seconds_in


def sweep(
    file: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP.yaml", help="A sweep file, or the name of one of ray-kd's.", callback=find_file
        ),
    ],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the trials, run nothing.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="With --plan: a row for each trial.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --plan: time a few steps, for the hours.")
    ] = False,
    address: AddressOption = None,
    storage: StorageOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train failed trials again.")] = False,
    until_time: Annotated[
        str | None,
        typer.Option(
            "--until-time", help="Stop after 2h, 90m, 45s, and print the table.", show_default=False
        ),
    ] = None,
    storage_timeout: Annotated[
        str, typer.Option("--storage-timeout", help="How long to wait for a storage that does not answer.")
    ] = "10m",
) -> None:
    """Train the missing trials of a comparison, then print its table.

    Trials run in parallel with Ray Tune. After Ctrl-C the same command resumes
    and repeats no finished trial. With looks in 'seeds', a strategy that a look
    decides gets no more seeds. After --until-time the table says what the
    complete looks have decided. While the storage does not answer, the sweep
    waits, up to --storage-timeout (0s: not at all). Exit code 1: a trial failed
    or has no teacher; 3: trials are unfinished, since the storage did not answer
    or the time is over: run the same command again.

    Examples:
      ray-kd sweep sweeps/digits.yaml --plan
      ray-kd sweep sweeps/digits.yaml --plan --probe
      ray-kd sweep sweeps/digits.yaml
      ray-kd sweep sweeps/digits.yaml seeds=[0,1,2] base.training.epochs=40
      ray-kd sweep sweeps/digits.yaml "seeds={looks: [5, 10, 20], margin: 1}"
      ray-kd sweep sweeps/digits.yaml --until-time 2h
      ray-kd sweep sweeps/digits.yaml base.tracking.wandb=offline
      ray-kd sweep sweeps/digits.yaml base.targets=stored
      ray-kd sweep sweeps/digits.yaml --address auto --storage s3://bucket/kd
    """
    if plan:
        return _show_plan(file, tuple(overrides or ()), storage, trials, probe)
    if trials:
        raise UserError("--trials prints a row for each trial of a plan; use it with --plan.")
    if probe:
        raise UserError("--probe times a few steps for the hours of a plan; use it with --plan.")
    again = typed("sweep", file, *(overrides or ()), address=address, storage=storage)
    limit = None if until_time is None else seconds_in(until_time, "--until-time")
    patience = seconds_in(storage_timeout, "--storage-timeout", zero=True)
    given, retry = tuple(overrides or ()), f"{again} --retry-failed"
    compare(file, given, address, storage, again, retry, retry_failed, limit, patience)


def _show_plan(file: str, overrides: tuple[str, ...], storage: str | None, trials: bool, probe: bool) -> None:
    from ray_kd.cluster.plan import plan_table
    from ray_kd.config.sweep import SweepSpec

    show(plan_table(SweepSpec.load(file, *overrides), storage, trials, probe))


def compare(
    file: str,
    overrides: tuple[str, ...],
    address: str | None,
    storage: str | None,
    again: str,
    retry: str,
    retry_failed: bool = False,
    until_time: float | None = None,
    storage_timeout: float | None = None,
) -> None:
    """Run a sweep, analyse it, and print where its files are and the next command."""
    from ray_kd.analysis import analyze
    from ray_kd.cluster.quiet import quiet
    from ray_kd.cluster.sweep import run_sweep
    from ray_kd.storage import Store
    from ray_kd.trials.pause import STORAGE_TIMEOUT

    quiet()
    result = run_sweep(
        file,
        *overrides,
        address=address,
        storage=storage,
        retry_failed=retry_failed,
        until_time=until_time,
        storage_timeout=STORAGE_TIMEOUT if storage_timeout is None else storage_timeout,
    )
    if result.out_of_time and not result.complete and result.finished:
        show(analyze(result.storage, result.name).table)
        say()
    if result.exit_code == 3:
        say(f"next: {again}     (trains the {result.unfinished} unfinished trials)")
    if not result.complete:
        raise typer.Exit(result.exit_code)
    found = analyze(result.storage, result.name)
    show(found.table)
    store, place = Store(result.storage), f"sweeps/{result.name}"
    say(f"\ntables, plots and report: {shown(store.path(place))}")
    say(f"  open {shown(store.path(f'{place}/report.html'))}")
    for line in best_lines(found.records.trials, result.name, result.storage):
        say(line)
    if result.exit_code:
        lost = f"{result.failed + result.blocked} of {result.total} trials failed or have no teacher"
        say(f"{lost}. Fix the reasons above, then run: {retry}")
        raise typer.Exit(result.exit_code)
    say_left_out(found.left_out)

"""ray-kd train, ray-kd teacher."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_kd.cli.common import AddressOption, Overrides, ProgressLine, StorageOption, find_file, shown, typed
from ray_kd.config.names import one_line
from ray_kd.config.screen import say

if TYPE_CHECKING:
    from ray_kd.config.spec import RunSpec
    from ray_kd.training.run_context import RunContext

RESUMES = "the same command resumes from here"
FRESH_AGAIN = "with --fresh the run starts over; without --fresh it resumes, or is shown if it had finished"


def train(
    file: Annotated[str, typer.Argument(metavar="RUN.yaml", help="A run file.", callback=find_file)],
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(help="Ranks that train together (Ray Train, DDP).", show_default=False)
    ] = None,
    storage: StorageOption = None,
    address: AddressOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even if the run has ended.")] = False,
) -> None:
    """Train one student, and first its teachers that are not trained yet.

    A run that has ended is shown and not trained again. A run that was
    interrupted resumes from its last state and ends with the same numbers.

    Examples:
      ray-kd train sweeps/runs/digits.yaml
      ray-kd train sweeps/runs/digits.yaml aggregation=adaptive optimizer.lr=0.05
      ray-kd train sweeps/runs/digits.yaml "paths=[nst, logits]" paths.0.weight=10
      ray-kd train sweeps/runs/digits.yaml tracking.wandb=offline
      ray-kd train sweeps/runs/digits.yaml --workers 2      DDP, by Ray Train
    """
    from ray_kd.config.spec import RunSpec
    from ray_kd.training.distill import distill
    from ray_kd.training.other_lengths import length_notes

    extra = [f"storage={storage}"] if storage else []
    extra += [f"resources.workers={workers}"] if workers is not None else []
    spec = RunSpec.load(file, *(overrides or ()), *extra)
    context = make_setting(spec)
    for line in length_notes([spec], context.store):
        say(f"ray-kd: {line}", error=True)
    show = Line()
    with stop_on_signal(context, FRESH_AGAIN if fresh else RESUMES):
        if spec.resources.workers == 1 and address is None:
            with reading_ahead(spec, context):
                summary = distill(spec, fresh=fresh, context=context, on_epoch=show)
        else:
            summary = distribute(spec, context, address, fresh, show)
    show.end()
    where = context.store.path(f"runs/{summary['identity']}")
    say(test_figures(summary))
    say(f"records and weights: {shown(where)}")
    place = None if spec.storage == "results" else shown(spec.storage)
    take_out = typed("export", summary["identity"][:8], to=f"exported/{spec.name}", storage=place)
    say(f"next: {take_out}     (weights and program, for use without ray-kd)")


@contextmanager
def reading_ahead(spec: RunSpec, context: RunContext) -> Iterator[None]:
    """Within the block, Ray streams the targets of a run with ``targets.read: stream``."""
    if not spec.targets.streamed or not spec.active_paths() or spec.resources.loaders == 0:
        yield
        return
    from ray_kd.cluster.connect import connect
    from ray_kd.cluster.probe import own_modules
    from ray_kd.cluster.quiet import native_quiet
    from ray_kd.cluster.stream import stream

    with connect(None, own_modules([spec])), native_quiet():
        context.stream = stream
        yield


def distribute(
    spec: RunSpec, context: RunContext, address: str | None, fresh: bool, show: Line
) -> dict[str, Any]:
    """Train with Ray Train, on a cluster or on this machine; the teachers train in this process."""
    from ray_kd.cluster.connect import connect
    from ray_kd.cluster.joined import probed
    from ray_kd.cluster.probe import own_modules
    from ray_kd.cluster.train import run_distributed
    from ray_kd.training.distill import begin_anew, ensure_teachers
    from ray_kd.training.process_cache import ProcessCache

    with ExitStack() as stack:
        if stack.enter_context(connect(address, own_modules([spec]))):
            stack.enter_context(probed(spec))
        ensure_teachers(spec, context, ProcessCache(), show)
        directory = begin_anew(context.store, spec.identity(), fresh)
        return run_distributed(spec, lambda record: show(spec, record), context.stop, directory=directory)


def teacher(
    file: Annotated[str, typer.Argument(metavar="RUN.yaml", help="A run file.", callback=find_file)],
    overrides: Overrides = None,
    storage: StorageOption = None,
) -> None:
    """Train the teachers of a run that are not trained yet.

    A teacher is trained once: all runs and sweeps on this storage whose
    teacher has the same settings use it.

    Examples:
      ray-kd teacher sweeps/runs/digits.yaml
      ray-kd teacher sweeps/runs/digits.yaml teacher.training.epochs=60
    """
    from ray_kd.config.errors import UserError
    from ray_kd.config.spec import RunSpec
    from ray_kd.training.distill import ensure_teachers
    from ray_kd.training.process_cache import ProcessCache

    spec = RunSpec.load(file, *(overrides or ()), *([f"storage={storage}"] if storage else []))
    if not spec.teachers:
        raise UserError(f"{file}: the run has no teacher.")
    context, show = make_setting(spec), Line()
    with stop_on_signal(context):
        for summary in ensure_teachers(spec, context, ProcessCache(), show):
            show.end()
            place = shown(context.store.path(f"runs/{summary['identity']}"))
            say(
                f"{one_line(summary['name'])}: test {summary['monitor']} "
                f"{summary['best']['test'][summary['monitor']]:.4f}, in {place}"
            )


def test_figures(summary: dict[str, Any]) -> str:
    """A table of a run's test metrics: of its last weights, and of those that are best on validation."""
    both = [summary["last"], summary["best"]]
    names = list(dict.fromkeys(name for figures in both for name in figures["test"]))
    rows = [
        ["test", *(f"{which} (epoch {f['epoch']})" for which, f in zip(("last", "best"), both, strict=True))]
    ]
    for name in names:
        values = (figures["test"].get(name) for figures in both)
        rows.append([name, *("" if value is None else f"{value:.4f}" for value in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def make_setting(spec: RunSpec) -> RunContext:
    """The context of a run in this process, with a tracker if the run asks for one."""
    from ray_kd.training.preflight import check_run
    from ray_kd.training.run_context import local_context

    context = local_context(spec)
    check_run(spec)
    if spec.tracking.wandb != "off":
        from ray_kd.tracking.wandb import make_tracker, require_wandb

        require_wandb(spec)
        context.track = make_tracker(spec)
    return context


@contextmanager
def stop_on_signal(context: RunContext, then: str = RESUMES) -> Iterator[None]:
    """Ctrl-C saves the state at the next step; a second one ends at once."""

    def ask(number: int, frame: Any) -> None:
        if context.stop.is_set():
            raise KeyboardInterrupt
        context.stop.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    except KeyboardInterrupt as error:  # caught here, since Typer catches it otherwise
        say(f"\nray-kd: {error or 'stopped'}; {then}.", error=True)
        raise typer.Exit(130) from error
    finally:
        signal.signal(signal.SIGINT, before)


class Line(ProgressLine):
    """The progress of training runs, one after the other."""

    _name, _first = "", 0

    def __call__(self, spec: RunSpec, record: dict[str, Any]) -> None:
        from ray_kd.config.registry import TASKS

        total, monitor = spec.training.epochs, TASKS.get(spec.task.component_name).monitor
        if spec.name != self._name:
            self.end()
            self._name, self._first = spec.name, record["epoch"]
            self.began, self._last = time.monotonic(), 0.0
        done, since = record["epoch"] == total, record["epoch"] - self._first
        if not done and not self.due():
            return
        values = "  ".join(f"val {n} {v:.4f}" for n, v in record.get("val", {}).items() if n == monitor)
        text = f"{one_line(spec.name)}: epoch {record['epoch']}/{total}  loss {record['train']['loss']:.4f}"
        text += f"  {values}"
        if since and not done:
            text += f"  {(time.monotonic() - self.began) / since * (total - record['epoch']):.0f} s left"
        self.show(text)

"""Train one run in this process, without Ray and without the command line."""

from __future__ import annotations

import hashlib
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from ray_kd.config.ending import Interrupted
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.registry import DATASETS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.storage import Lock, Store
from ray_kd.teacher.load import is_whole
from ray_kd.training.distributed import broadcast_object
from ray_kd.training.object_records import Own, describe_own, require_same_runs
from ray_kd.training.object_specs import with_objects
from ray_kd.training.own_objects import check_own_objects, own_dataset
from ray_kd.training.preflight import ImageShape, check_run
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.records import BESIDE, Records, find_summary
from ray_kd.training.run import Training
from ray_kd.training.run_context import RunContext, local_context

OnEpoch = Callable[[RunSpec, dict[str, Any]], None]


def distill(
    spec: RunSpec | str | FilePath,
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    classes: int | None = None,
    key: str | None = None,
    fresh: bool = False,
    context: RunContext | None = None,
    cache: ProcessCache | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Any]:
    """Train one student, and first every teacher that is not trained yet; a finished run is not repeated.

    Args:
        spec: a RunSpec or a run file.
        student: your own module, which the spec need not name, with ``stage_channels`` where paths need
            features. It has the run's last weights afterwards, whether the run was trained or found.
        teacher: your own trained module in place of the spec's only teacher.
        train, validation, test: your own sets, all three or none; docs/python.md says what is taken how.
        classes: how many classes your own sets have; default: as ``own_dataset`` finds them, else it asks.
        key: names your own objects, so that the run is found, or goes on where it was stopped; the same key
            with other objects is refused. Without a key every call trains a new run in a new folder.
        fresh: start over; a finished run is kept until its replacement has finished.
        context: where to run; default: this process, first GPU or CPU. ``tracking.wandb`` is not read: set
            ``context.track`` to ``ray_kd.tracking.wandb.make_tracker(spec)``, or to your own ``Tracker``.
        cache: keeps datasets and teachers in memory between calls.
        on_epoch: called after each epoch with the spec of the run and the epoch's record.

    Returns:
        The run's summary: status, steps, seconds, ``last`` and ``best`` metrics on validation and test.

    Raises:
        UserError: the spec or the objects do not fit together.
        TrainingFailed: a loss became NaN or infinite; the summary says so too.
        Interrupted: by Ctrl-C, which saves the state at the next step (a second one ends at once).

    Example:
        >>> run = {"dataset": "digits", "student": "digits_cnn", "training": {"epochs": 1}}
        >>> distill(RunSpec.parse(run))["status"]
        'finished'
    """
    spec = spec if isinstance(spec, RunSpec) else RunSpec.load(spec)
    context, cache = context or local_context(spec), cache or ProcessCache()
    sets = {"train": train, "validation": validation, "test": test}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        own = _own(spec, student, teacher, sets, key, classes)
        spec, identity = _checked(spec, own, context, cache)
        with _stopping(context, own):
            ensure_teachers(spec, context, cache, on_epoch)
            directory = begin_anew(context.store, identity, fresh)
            return _run(Training(spec, context, cache, own, identity, directory), on_epoch)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def ensure_teachers(
    spec: RunSpec,
    context: RunContext,
    cache: ProcessCache,
    on_epoch: OnEpoch | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Train every teacher of a run that is not trained yet, each after those that it learns from.

    Returns:
        The summaries of the run's own teachers, and of those that had to be trained for these to train.

    Raises:
        TrainingFailed: a teacher's loss is no longer finite.
        UserError: a teacher cannot be set up, the user's code now makes another teacher, or
            (``EnvironmentFault``) a fault of the machine.
    """
    runs, needed = spec.teacher_runs(), set(spec.needed_teachers())
    found, lost = dict[str, dict[str, Any]](), set[str]()
    for name in reversed(runs):  # what a teacher learnt from is not needed once it is trained
        if name not in needed:
            continue
        require_same_runs(context.store, [runs[name]])
        summary = find_summary(context.store, runs[name].identity())
        if summary is None or summary["status"] != "finished":
            needed.update(runs[name].needed_teachers())
        elif not is_whole(spec, name, context.store):
            needed.update(runs[name].needed_teachers())
            lost.add(name)
        else:
            found[name] = summary
    apart = replace(context, track=None)  # the tracker is for the student
    for name, run in runs.items():
        if name in needed and name not in found:
            directory = begin_anew(context.store, run.identity(), name in lost, on_wait)
            found[name] = _run(Training(run, apart, cache, directory=directory, on_wait=on_wait), on_epoch)
    return [found[name] for name in runs if name in found]


def begin_anew(
    store: Store, identity: str, fresh: bool = False, on_wait: Callable[[str], None] | None = None
) -> str:
    """Prepare a run to train: delete its summary and state if it ended without finishing.

    Args:
        on_wait: called with a sentence while another process trains the run, which this call waits for.

    Returns:
        The directory to write to: inside that of a finished run, which is kept until this one has finished.
    """

    def status() -> str | None:
        earlier = find_summary(store, identity)
        return None if earlier is None else str(earlier["status"])

    directory = f"runs/{identity}"
    if not fresh and status() in (None, "finished"):
        return directory
    with Lock(store, f"{directory}/lock", on_wait=on_wait, what=f"run {identity}"):
        Records(store, directory).take_place()  # continues an interrupted replacement
        if status() == "finished":
            if fresh:
                directory = f"{directory}/{BESIDE}"
                store.delete_tree(directory)
            return directory
        for file in ("summary.json", "error.txt"):
            store.delete(f"{directory}/{file}")
        store.delete_tree(f"{directory}/checkpoints")
    return directory


def _run(training: Training, on_epoch: OnEpoch | None) -> dict[str, Any]:
    try:
        for record in training.epochs():
            if on_epoch is not None:
                on_epoch(training.spec, record)
        return training.finish()
    except TrainingFailed as error:
        training.fail(error)
        raise
    except UserError:
        raise
    except Exception as error:
        training.fail(error)
        raise


@contextmanager
def _stopping(context: RunContext, own: Own | None) -> Iterator[None]:
    """Within the block Ctrl-C, where it would raise KeyboardInterrupt, sets ``context.stop`` first."""

    def ask(number: int, frame: Any) -> None:
        if context.stop.is_set():
            raise KeyboardInterrupt
        context.stop.set()

    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield
    except Interrupted as error:
        if own is None:
            raise
        then = f"the same call with key '{own.key}' goes on from here"
        if own.key is None:
            then = "without a key no call finds it again: the next one trains another run"
        raise Interrupted(f"{error}; {then}") from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _own(
    spec: RunSpec, student: Any, teacher: Any, sets: dict[str, Any], key: str | None, classes: int | None
) -> Own | None:
    if student is None and teacher is None and sets["train"] is None:
        given = [
            name for name, value in {**sets, "key": key, "classes": classes}.items() if value is not None
        ]
        if given:
            raise UserError(f"distill: {', '.join(given)}: needs your own student, teacher or train set.")
        return None
    for name, network in (("student", student), ("teacher", teacher)):
        if network is not None and not isinstance(network, nn.Module):
            raise UserError(f"distill: {name}: expected a torch.nn.Module, got {type(network).__name__}.")
    dataset: Dataset | None = None
    if sets["train"] is not None:
        if sets["validation"] is None or sets["test"] is None:
            raise UserError("distill: your own train set needs validation and test sets too.")
        dataset = own_dataset(spec, sets, classes, student)
    return Own(student, teacher, dataset, key)


def _checked(spec: RunSpec, own: Own | None, context: RunContext, cache: ProcessCache) -> tuple[RunSpec, str]:
    """Check the run's parts and the user's objects.

    Returns:
        The spec as it is recorded, and the run's identity, the same on every rank.
    """
    if own is None:
        spec.require_named()
        check_run(spec, shape=_shape(spec, cache, context))
        return spec, spec.identity()
    spec = with_objects(spec, own)
    check_own_objects(spec, own, cache, context.device)
    own.described = describe_own(own)
    spec = with_objects(spec, own)
    return spec, str(broadcast_object(_own_identity(spec, own), context.world))


def _shape(spec: RunSpec, cache: ProcessCache, context: RunContext) -> ImageShape | None:
    """Channels, height and width of the dataset's images, for which the dataset may have to be read."""
    if DATASETS.get(spec.dataset.component_name).image_shape(spec.dataset) is not None:
        return None
    first = cache.dataset(spec.dataset, context.device).train.gather(torch.tensor([0]))["image"]
    channels, height, width = first.shape[1:]
    return int(channels), int(height), int(width)


def _own_identity(spec: RunSpec, own: Own) -> str:
    if own.key is None:
        return secrets.token_hex(8)
    what = [name for name in ("student", "teacher", "dataset") if getattr(own, name) is not None]
    text = f"{spec.identity()}:{','.join(what)}:{own.key}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]

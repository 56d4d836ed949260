"""How long runs take, from a few of their steps and an evaluation; nothing is written."""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import torch

from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL
from ray_kd.config.spec import RunSpec
from ray_kd.data.order import steps_per_epoch
from ray_kd.storage import Store
from ray_kd.training.build import Parts, build
from ray_kd.training.evaluation import evaluate
from ray_kd.training.loaders import make_batches, make_loader
from ray_kd.training.process_cache import JUDGED, EverySoMany, ProcessCache
from ray_kd.training.run_context import RunContext, default_device
from ray_kd.training.speed import settle
from ray_kd.training.step import Step

EACH = 0.2
"""Seconds of a trial beside its training: handing it out, building it, its files (docs/performance.md)."""


@dataclass(frozen=True)
class Timing:
    """One timing of a run.

    Attributes:
        seconds: of the whole run; None: no time was left, or the timing failed.
        failed: why; empty: it did not fail.
        memory, gpu_memory: the most bytes that the process has had so far.
    """

    seconds: float | None = None
    failed: str = ""
    memory: int = 0
    gpu_memory: int = 0


def time_side_by_side(specs: Sequence[RunSpec], processes: int, seconds: float) -> list[list[Timing]]:
    """Time runs in several processes at once, as trials that run beside one another slow one another down.

    Args:
        specs: the first ones are timed in any case, and again where there are too few for all processes.
        seconds: for which timing goes on, about, with the start of the processes.

    Returns:
        The timings of each run.
    """
    count, until = -(-len(specs) // processes) * processes, time.monotonic() + seconds
    found: list[list[Timing]] = [[] for _ in specs]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        work = [
            pool.submit(
                _timing,
                specs[place % len(specs)].to_dict(),
                until if place >= processes else math.inf,
                (count - place) / processes,
            )
            for place in range(count)
        ]
        for place, one in enumerate(work):
            try:
                found[place % len(specs)].append(one.result())
            except BrokenProcessPool:
                failed = "a process that timed steps was killed; is the memory large enough?"
                found[place % len(specs)].append(Timing(failed=failed))
    return found


def _timing(run: dict[str, Any], until: float, left: float) -> Timing:
    """Time one run in this process, unless it is past ``until``; ``left`` runs are to be timed by then."""
    rest = until - time.monotonic()
    if rest <= 0:
        return Timing()
    try:
        spec = RunSpec.parse(run)
        device = default_device() if spec.resources.gpus else torch.device("cpu")
        share = min(1.0, rest / (4 * left))  # building and evaluating take the rest
        took = seconds_of_run(spec, RunContext(Store(spec.storage), device), _process_cache(), share)
    except (UserError, OSError, ImportError, torch.OutOfMemoryError) as error:  # such as missing data
        return Timing(failed=str(error).splitlines()[0])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    on_gpu = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Timing(took, memory=memory, gpu_memory=on_gpu)


@functools.cache
def _process_cache() -> ProcessCache:
    return ProcessCache()


def seconds_of_run(spec: RunSpec, context: RunContext, cache: ProcessCache, seconds: float = 1.0) -> float:
    """About how many seconds one worker of a run takes, measured on its device.

    Steps are those of training, with reading, views and targets; teachers have their initial weights, so that
    none has to be trained, and stored targets cost nothing. ``torch.compile`` is left out.

    Args:
        seconds: for which steps are timed, after two that do not count; at least two are.
    """
    training, workers = spec.training, spec.resources.workers
    teachers = {
        name: teacher.model_copy(update={"weights": INITIAL}) for name, teacher in spec.teachers.items()
    }
    live = spec.targets.model_copy(update={"source": "live"})
    own = training.model_copy(update={"batch_size": training.batch_size // workers, "compile": False})
    changed = spec.model_copy(update={"teachers": teachers, "targets": live, "training": own})
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(training.threads)
    try:
        parts = build(changed, context, cache)
        steps = steps_per_epoch(len(parts.dataset.train), training.batch_size)
        step = _step(changed, parts, context, seconds, spec.targets.source == "stored")
        validation, test = (_evaluation(parts, context, name) for name in ("validation", "test"))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    asked = -(-training.epochs // training.evaluate_every)
    shown = 1 if training.ema is None else 2  # averaged and raw weights
    whole = training.epochs * steps * step + (asked * validation * shown + 2 * test) / workers
    return whole + EACH


def _step(spec: RunSpec, parts: Parts, context: RunContext, seconds: float, stored: bool) -> float:
    """Seconds of a step, with the reading of its batch."""
    loader = make_loader(spec, parts, context)
    try:
        batches = make_batches(spec, parts, context, loader)
        step = Step(spec, parts, context, batches.steps)
        step.module.train()
        step.begin_epoch(0, None)
        endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
        kept = parts.targets.targets(step.ready(next(endless), parts.targets.targets)) if stored else None

        def once() -> None:
            batch = step.ready(next(endless), parts.targets.targets)
            step(batch, parts.targets.targets(batch) if kept is None else dict(kept))

        once()
        once()
        settle(context.device)
        begin, done = time.perf_counter(), 0
        while done < 2 or time.perf_counter() - begin < seconds:
            once()
            done += 1
        settle(context.device)
        return (time.perf_counter() - begin) / done
    finally:
        loader.close()


def _evaluation(parts: Parts, context: RunContext, name: str) -> float:
    """Seconds of an evaluation on a split; of a large one a part is evaluated, without its teacher."""
    split = getattr(parts.dataset, name)
    small = len(split) <= JUDGED
    part = split if small else EverySoMany(split, -(-len(split) // JUDGED))
    predictions = parts.judge(name) if small and parts.judge is not None else None
    alone = replace(context, rank=0, world=1)
    took = 0.0
    for _ in range(2 if small else 1):  # the first asks the teacher, whose predictions are kept
        begin = time.perf_counter()
        evaluate(parts.student, parts.task, part, predictions, alone)
        took = time.perf_counter() - begin
    return took * len(split) / len(part)

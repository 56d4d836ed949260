"""How long a run takes, from a few of its steps and an evaluation; nothing is written."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import torch

from ray_kd.config.files import INITIAL
from ray_kd.config.spec import RunSpec
from ray_kd.data.order import steps_per_epoch
from ray_kd.training.build import Parts, build
from ray_kd.training.evaluation import evaluate
from ray_kd.training.loaders import make_batches, make_loader
from ray_kd.training.process_cache import JUDGED, EverySoMany, ProcessCache
from ray_kd.training.run_context import RunContext
from ray_kd.training.speed import settle
from ray_kd.training.step import Step

EACH = 0.2
"""Seconds of a trial beside its training: handing it out, building it, its files (docs/performance.md)."""


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

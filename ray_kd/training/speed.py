"""Measure how fast a run's batches are read and how fast its model trains, and which waits for the other."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ray_kd.config.files import INITIAL
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import TensorSplit
from ray_kd.data.batches import Batches
from ray_kd.data.loading import Loader, default_processes
from ray_kd.training.build import build
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext
from ray_kd.training.step import Step

SECONDS = 3.0
"""Seconds for which each of the two is measured, after two batches that do not count."""

ENOUGH = 1.1
"""A loader that is this much faster than the model keeps it busy even with uneven batches."""


@dataclass(frozen=True)
class Speed:
    """Images a second of one worker.

    Attributes:
        loader: reading batches and making views, with nothing else running.
        model: training steps on a batch that is already in memory.
        processes: loader processes; 0: the worker reads itself, and the model waits meanwhile.
        in_memory: whether the training images lie in memory.
        batch_bytes: size of a batch in shared memory.
    """

    loader: float
    model: float
    processes: int
    in_memory: bool
    device: str
    batch_bytes: int

    @property
    def together(self) -> float:
        """Training with loading: the slower of the two, or, without loader processes, one after the other."""
        if self.processes and not self.in_memory:
            return min(self.loader, self.model)
        return 1 / (1 / self.loader + 1 / self.model)

    @property
    def waits(self) -> str:
        """Which one waits: ``model`` if it waits for batches a third of its time or more, else ``loader``."""
        if self.processes and not self.in_memory:
            return "model" if self.loader < ENOUGH * self.model else "loader"
        return "model" if self.loader < 2 * self.model else "loader"

    @property
    def wanted(self) -> int:
        """How many loader processes would keep the model busy, from the measured speed of one."""
        return math.ceil(ENOUGH * self.model / (self.loader / max(1, self.processes)))


def measure(spec: RunSpec, context: RunContext, seconds: float = SECONDS) -> Speed:
    """Measure both for one worker of a run.

    Teachers run with their initial weights, so that none has to be trained; with stored targets they are
    left out.
    """
    torch.set_num_threads(spec.training.threads)
    teachers = {
        name: teacher.model_copy(update={"weights": INITIAL}) for name, teacher in spec.teachers.items()
    }
    stored = spec.targets.source == "stored"
    live = spec.targets.model_copy(update={"source": "live"})
    parts = build(spec.model_copy(update={"teachers": teachers, "targets": live}), context, ProcessCache())
    size = spec.training.batch_size // spec.resources.workers
    processes = default_processes(spec.resources.loaders, spec.resources.cpus, context.device)
    loader = Loader({"train": parts.dataset.train}, parts.views, context.device, processes)
    batches = Batches(parts.dataset.train, parts.views, size, spec.seed, context.device, loader=loader)
    step = Step(spec, parts, context, batches.steps)
    try:
        endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
        batch, read = next(endless), _rate(lambda: next(endless), size, context.device, seconds)
    finally:
        loader.close()
    step.module.train()
    batch = step.ready(batch, parts.targets.targets)
    kept = parts.targets.targets(batch) if stored else None

    def train() -> None:
        step(batch, dict(parts.targets.targets(batch) if kept is None else kept))

    return Speed(
        loader=read,
        model=_rate(train, size, context.device, seconds),
        processes=processes,
        in_memory=isinstance(parts.dataset.train, TensorSplit),
        device=context.device.type,
        batch_bytes=sum(value.numel() * value.element_size() for value in batch.values()),
    )


def _rate(work: Callable[[], object], size: int, device: torch.device, seconds: float) -> float:
    """Samples per second of ``work``, which processes ``size`` samples in each call."""
    for _ in range(2):
        work()
    settle(device)
    begin, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - begin < seconds:
        work()
        done += 1
    settle(device)
    return done * size / (time.perf_counter() - begin)


def settle(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

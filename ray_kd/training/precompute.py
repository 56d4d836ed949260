"""The stored targets of several runs: estimate their size and time, and compute them in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.words import sized, spell
from ray_kd.data import create_views
from ray_kd.data.base import Dataset
from ray_kd.data.views import Views
from ray_kd.models import create_model
from ray_kd.models.create import fitting
from ray_kd.targets.compute import (
    OnShard,
    Source,
    about,
    batch_size,
    compute,
    same_targets,
    sources,
    union,
    viewed,
)
from ray_kd.tasks import Task, create_task
from ray_kd.teacher import LiveTeacher
from ray_kd.training.build import build_paths
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext


@dataclass
class Work:
    """One source, and the run, dataset and task that compute it."""

    source: Source
    spec: RunSpec
    dataset: Dataset
    views: Views
    task: Task
    load: Callable[[], LiveTeacher] = field(repr=False)


def gather_work(
    specs: Iterable[RunSpec], context: RunContext, cache: ProcessCache, trained: bool = True
) -> list[Work]:
    """The stored targets that runs need, with those of one store merged.

    Args:
        trained: load trained teachers; otherwise initial ones, which suffice for the shapes in a plan.

    Raises:
        UserError: no run reads stored targets, or a teacher is not trained.
    """
    chosen = same_targets(specs)
    if not chosen:
        raise UserError(
            "targets.source: expected 'stored' in a run with paths; there are no targets to compute."
        )
    by_store: dict[str, RunSpec] = {}
    lists = []
    for spec in chosen:
        dataset = cache.dataset(spec.dataset, context.device)
        place = torch.device("cpu")
        teachers = {
            name: cache.teacher(spec, name, context.store, place)
            if trained
            else _fresh(spec, name, dataset, place)
            for name in spec.needed_teachers()
        }
        student = create_model(spec.student, **fitting(spec.student, spec, dataset))
        paths = build_paths(spec, student, teachers)
        modules = {name: teacher.model for name, teacher in teachers.items()}
        found = sources(spec, dataset, modules, paths, context.store)
        for source in found:
            by_store.setdefault(source.store.identity, spec)
        lists.append(found)
    return [
        _work(source, by_store[source.store.identity], context, cache, trained) for source in union(lists)
    ]


def _work(source: Source, spec: RunSpec, context: RunContext, cache: ProcessCache, trained: bool) -> Work:
    dataset = cache.dataset(spec.dataset, context.device)
    name = source.store.about["teacher"]

    def load() -> LiveTeacher:
        if trained:
            return cache.teacher(spec, name, context.store, context.device)
        return _fresh(spec, name, dataset, context.device)

    return Work(source, spec, dataset, create_views(spec, dataset), create_task(spec, dataset), load)


def _fresh(spec: RunSpec, name: str, dataset: Dataset, device: torch.device) -> LiveTeacher:
    """A teacher that was not trained: it says the shapes of its targets and how long it takes."""
    options = spec.teachers[name].model
    return LiveTeacher(create_model(options, **fitting(options, spec, dataset)), device)


def precompute(
    specs: Iterable[RunSpec],
    context: RunContext,
    cache: ProcessCache | None = None,
    on_shard: OnShard | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> int:
    """Compute the missing stored targets of runs in this process; returns the number of shards."""
    done = 0
    for work in gather_work(specs, context, cache or ProcessCache()):
        done += compute(work.source, work.dataset, work.views, work.task, work.load, on_shard, on_wait)
    return done


def seconds_per_sample(work: Work) -> float:
    """The teacher's seconds for one sample under one view on this machine, measured on a few batches."""
    split = getattr(work.dataset, work.source.split)
    teacher = work.load()
    index = torch.arange(min(batch_size(split), len(split)))

    def once() -> float:
        begin = time.perf_counter()
        batch = viewed(split, index, work.views, 0, teacher.device)
        outputs = teacher.outputs(batch["image"])
        if outputs.logits is not None:
            outputs.logits.sum().item()
        return time.perf_counter() - begin

    once()
    return min(once() for _ in range(3)) / len(index)


@dataclass
class TargetPlan:
    """Size of stored targets, and the teacher's time with and without them.

    Attributes:
        rows: cells of a table: target, split, shape, stored as, bytes of a row, rows, bytes in all.
        total: bytes of all shards.
        copied: bytes of a machine's memory-mapped copy; 0 if all runs stream.
        teacher: seconds that the teacher needs to compute them on this machine.
        live: seconds that the teacher would need in all trials without stored targets.
    """

    rows: Sequence[tuple[str, ...]]
    total: int
    copied: int
    missing: int
    teacher: float
    live: float
    trials: int

    def text(self) -> str:
        """In a few sentences."""
        trials = "one trial" if self.trials == 1 else f"{self.trials} trials"
        copied = f"{sized(self.copied)} for each machine's memory-mapped copy" if self.copied else "no copy"
        whole = sized(self.total + self.copied)
        lines = [
            f"{sized(self.total)} of shards, and {copied}: {whole} on one machine.",
            f"The teacher computes them in {spell(self.teacher)} (measured here on a few batches); "
            f"a live teacher would need {spell(self.live)} in {trials}.",
        ]
        if not self.missing:
            lines.append("All targets are stored already.")
        elif self.live > self.teacher:
            lines.append(f"Stored targets save {spell(self.live - self.teacher)} of the teacher's time.")
        else:
            lines.append("Stored targets save no time: set fewer views (views.count) or run more trials.")
        return "\n".join(lines)


def plan_targets(works: list[Work], specs: list[RunSpec]) -> TargetPlan:
    """Estimate the stored targets of runs; the teacher is measured on a few batches."""
    rows, total, copied, teacher, live = [], 0, 0, 0.0, 0.0
    students = [spec for spec in specs if spec.active_paths()]
    mapped = any(not spec.targets.streamed for spec in students)
    for work in works:
        source = work.source
        many = len(source.ids) * source.views
        for name, column in sorted(source.columns.items()):
            encoding = column.encoding
            size = encoding.nbytes * many
            shape = "x".join(map(str, encoding.shape)) or "1"
            figures = (shape, encoding.word, f"{encoding.nbytes:,}", f"{many:,}", sized(size))
            rows.append((name.rpartition("@")[0] or name, source.split, *figures))
            total, copied = total + size, copied + size * mapped
        each = seconds_per_sample(work)
        teacher += each * many
        if source.split == "train":
            name = source.store.about["teacher"]
            for spec in students:
                if (
                    name in spec.needed_teachers()
                    and about(spec, name)["identity"] == source.store.about["identity"]
                ):
                    live += each * len(source.ids) * spec.training.epochs
        else:
            live += each * many
    missing = sum(len(shards) for work in works for _, shards in work.source.missing())
    return TargetPlan(rows, total, copied, missing, teacher, live, len(students))

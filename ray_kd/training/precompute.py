"""The stored targets of many runs at once: what they come to, and computing them here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
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
    """One source, and what computes it."""

    source: Source
    spec: RunSpec
    dataset: Dataset
    views: Views
    task: Task
    load: Callable[[], LiveTeacher] = field(repr=False)


def gather_work(
    specs: Iterable[RunSpec], context: RunContext, cache: ProcessCache, trained: bool = True
) -> list[Work]:
    """What runs want stored, those of one store together.

    Args:
        trained: their teachers are trained; else fresh ones say the shapes, for a plan.

    Raises:
        UserError: no run has stored targets, or a teacher is not trained.
    """
    chosen = same_targets(specs)
    if not chosen:
        raise UserError(
            "targets.source: expected stored in a run that has paths; nothing is to be computed beforehand."
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
    """Compute what runs' stored targets lack, in this process; how many shards that were.

    Raises:
        UserError: a teacher is not trained, the disk is full.
    """
    done = 0
    for work in gather_work(specs, context, cache or ProcessCache()):
        done += compute(work.source, work.dataset, work.views, work.task, work.load, on_shard, on_wait)
    return done


def seconds_per_sample(work: Work) -> float:
    """What the teacher takes for one sample under one view on this machine, measured on a few batches."""
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
    """What stored targets come to.

    Attributes:
        rows: cells of a table: target, split, shape, stored as, bytes of a row, rows, bytes in all.
        total: bytes of all shards.
        copied: bytes of a machine's memory-mapped copy; 0 where all runs stream.
        missing: shards that are not stored yet.
        teacher: seconds that the teacher needs, on this machine.
        live: seconds that it would need to answer in every trial.
        trials: how many trials read them.
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
            f"The teacher answers for {spell(self.teacher)} (measured here on a few batches); "
            f"live, in {trials}, it would answer for {spell(self.live)}.",
        ]
        if not self.missing:
            lines.append("All of it is stored already.")
        elif self.live > self.teacher:
            lines.append(f"Saved: {spell(self.live - self.teacher)} of the teacher's time.")
        else:
            lines.append("Nothing is saved: fewer views (views.count) or more trials would.")
        return "\n".join(lines)


def plan_targets(works: list[Work], specs: list[RunSpec]) -> TargetPlan:
    """What the stored targets of runs come to; measures the teacher for a moment.

    Args:
        works: as ``gather_work`` found them.
        specs: all runs that are to read them.
    """
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


def sized(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def spell(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"

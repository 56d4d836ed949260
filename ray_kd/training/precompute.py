"""The stored targets of many runs at once: what they come to, and computing them here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.data.views import Views
from ray_kd.models import create_model
from ray_kd.tasks import Task
from ray_kd.teacher import LiveTeacher
from ray_kd.training.parts import build_paths
from ray_kd.training.resident import Resident
from ray_kd.training.setting import Setting
from ray_kd.training.targets import (
    OnShard,
    Source,
    batch_size,
    compute,
    make_task,
    make_views,
    same_targets,
    sources,
    union,
    viewed,
)


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
    specs: Iterable[RunSpec], setting: Setting, resident: Resident, trained: bool = True
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
        dataset = resident.dataset(spec.dataset, setting.device)
        size = {"classes": dataset.classes_of(spec.task.component_name), "channels": dataset.channels}
        place = torch.device("cpu")
        teachers = {
            name: resident.teacher(spec, name, setting.store, place)
            if trained
            else LiveTeacher(create_model(spec.teachers[name].model, **size), place)
            for name in spec.needed_teachers()
        }
        paths = build_paths(spec, create_model(spec.student, **size), teachers)
        modules = {name: teacher.model for name, teacher in teachers.items()}
        found = sources(spec, dataset, modules, paths, setting.store)
        for source in found:
            by_store.setdefault(source.store.identity, spec)
        lists.append(found)
    return [
        _work(source, by_store[source.store.identity], setting, resident, trained) for source in union(lists)
    ]


def _work(source: Source, spec: RunSpec, setting: Setting, resident: Resident, trained: bool) -> Work:
    dataset = resident.dataset(spec.dataset, setting.device)
    name = source.store.about["teacher"]

    def load() -> LiveTeacher:
        if trained:
            return resident.teacher(spec, name, setting.store, setting.device)
        size = {"classes": dataset.classes_of(spec.task.component_name), "channels": dataset.channels}
        return LiveTeacher(create_model(spec.teachers[name].model, **size), setting.device)

    return Work(source, spec, dataset, make_views(spec, dataset), make_task(spec, dataset), load)


def precompute(
    specs: Iterable[RunSpec],
    setting: Setting,
    resident: Resident | None = None,
    on_shard: OnShard | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> int:
    """Compute what runs' stored targets lack, in this process; how many shards that were.

    Raises:
        UserError: a teacher is not trained, the disk is full.
    """
    done = 0
    for work in gather_work(specs, setting, resident or Resident()):
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

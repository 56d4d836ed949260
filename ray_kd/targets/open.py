"""Open a run's stored targets; those that are missing are computed first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.data.views import Views
from ray_kd.outputs import Outputs
from ray_kd.paths import Path
from ray_kd.storage import Store
from ray_kd.targets.batch_reader import Reading, require_near, shard_columns
from ray_kd.targets.compute import Source, compute, sources, unflat
from ray_kd.targets.held_shards import HeldShards, ShardColumn
from ray_kd.targets.layout import Group
from ray_kd.targets.mapped import MappedColumn, is_mapped, map_columns
from ray_kd.targets.stored_targets import Readable, StoredTargets
from ray_kd.tasks import Task, TeacherPredictions
from ray_kd.teacher import LiveTeacher


@dataclass
class OpenedTargets:
    """A run's targets, and the predictions of its teachers on an evaluation split, by (split, teacher).

    Attributes:
        reading: what another process needs to read the batches; None if a mapped copy is read.
    """

    targets: StoredTargets
    predictions: Callable[[str, str], TeacherPredictions]
    reading: Reading | None = None


def open_stored(
    spec: RunSpec,
    dataset: Dataset,
    views: Views,
    task: Task,
    teachers: Mapping[str, LiveTeacher],
    paths: list[Path],
    load: Callable[[str], LiveTeacher],
    store: Store,
    device: torch.device,
) -> OpenedTargets:
    """Open a run's stored targets; those that are missing are first computed in this process and stored.

    Args:
        teachers: the needed teachers, on any device; their modules give the shapes.
        load: loads a teacher onto the run's device; called only if targets are missing.

    Raises:
        UserError: a shard is damaged, or the disk is full.
    """
    cache = None if spec.targets.streamed else cache_of(spec, store)
    modules = {name: teacher.model for name, teacher in teachers.items()}
    wanted = sources(spec, dataset, modules, paths, store)
    for source in wanted:
        name = source.store.about["teacher"]
        if cache is None or not _all_mapped(source, cache):
            compute(source, dataset, views, task, lambda name=name: load(name))  # type: ignore[misc]
        source.store.require(teachers[name].digest)
    held = HeldShards(spec.targets.held)
    entries: dict[str, dict[str, Readable]] = {}
    for source in wanted:
        if source.split == "train":
            columns = _open(source, cache, held)
            for label, names in source.entries.items():
                entries[label] = {entry: columns[name] for entry, name in names.items()}
    targets = StoredTargets(dataset.train.ids, spec.distinct_views(), entries, device)
    judged = {(source.split, source.store.about["teacher"]): source for source in wanted}
    reading = None
    if cache is None:
        direct = tuple(column for column in targets.columns if isinstance(column, ShardColumn))
        require_near(spec, direct)
        reading = Reading({**spec.to_dict(), "storage": store.uri}, direct)
    return OpenedTargets(targets, lambda *which: _predictions(judged[which], cache, device), reading)


def cache_of(spec: RunSpec, store: Store) -> Store:
    """The local folder of memory-mapped copies.

    Raises:
        UserError: neither the storage nor ``targets.cache`` is a local path.
    """
    if spec.targets.cache is not None:
        cache = Store(spec.targets.cache)
    elif store.is_local:
        return store.child("targets/mapped")
    else:
        cache = Store("~/.cache/ray-kd/targets")
    if not cache.is_local:
        raise UserError(f"targets.cache: expected a folder on a local disk, got '{spec.targets.cache}'.")
    return cache


def _groups(source: Source) -> list[tuple[Group, list[str]]]:
    """The groups that hold columns of a source, each with the names of these columns."""
    found: dict[str, tuple[Group, list[str]]] = {}
    for name, group in source.groups().items():
        if group is not None:
            found.setdefault(group.identity, (group, []))[1].append(name)
    return list(found.values())


def _all_mapped(source: Source, cache: Store) -> bool:
    groups = _groups(source)
    return sum(len(names) for _, names in groups) == len(source.columns) and all(
        is_mapped(source.store, group, names, source.views, cache) for group, names in groups
    )


def _open(source: Source, cache: Store | None, held: HeldShards) -> Mapping[str, Readable]:
    """A source's columns by name, read from the copy in ``cache`` or, without it, from the shards."""
    if cache is None:
        return shard_columns(source, held)
    found: dict[str, MappedColumn] = {}
    for group, names in _groups(source):
        found.update(map_columns(source.store, group, names, source.views, cache))
    return found


def _predictions(source: Source, cache: Store | None, device: torch.device) -> TeacherPredictions:
    columns = _open(source, cache, HeldShards(1))  # evaluation reads them in order
    entries = {column.entry: columns[name] for name, column in source.columns.items()}
    stored = StoredTargets(source.ids, 1, {"predictions": entries}, device)

    def predict(index: int, batch: Mapping[str, Tensor]) -> Outputs:
        asked = {"sample": batch["sample"], "view": torch.zeros_like(batch["sample"])}
        return unflat(stored.targets(asked)["predictions"])

    return predict

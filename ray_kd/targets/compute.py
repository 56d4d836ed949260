"""Find which stored targets runs need and which are missing, and compute those.

Runs with the same dataset, views, teacher and task share a store, whatever else differs between them. A
sweep's targets are computed once, with the columns of all its trials together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, Split
from ray_kd.data.batches import PIXELS
from ray_kd.data.create import create_views
from ray_kd.data.loading import Loader, Request
from ray_kd.data.views import Views
from ray_kd.outputs import Outputs
from ray_kd.paths import Path
from ray_kd.storage import Lock, Store
from ray_kd.targets.encoding import Encoding
from ray_kd.targets.layout import Group, Shard, TargetStore
from ray_kd.targets.shards import write_shard
from ray_kd.tasks import Task, create_task
from ray_kd.teacher import LiveTeacher
from ray_kd.version import __version__

EVALUATION = ("validation", "test")
"""Splits on which the first teacher's predictions are stored, for fidelity."""
OnShard = Callable[[int, int], None]
"""Called with (shards done, shards in all) after each shard."""


@dataclass(frozen=True)
class Column:
    """One column of stored numbers: an entry of a path's target, or of the teacher's predictions.

    Attributes:
        entry: the key in the mapping of ``Path.target``; for predictions the name in ``Outputs``.
        path: the path; None: the teacher's predictions.
    """

    encoding: Encoding
    entry: str
    path: Path | None

    def made_by(self) -> dict[str, Any]:
        """How the column is made, as the store's ``group.json`` holds it."""
        return {"entry": self.entry, "path": None if self.path is None else self.path.options.full()}


@dataclass
class Source:
    """What runs need of one store on one split: the columns, and how many views.

    Attributes:
        views: how many views of each sample.
        entries: for each path's label, the column of each entry of its target; paths may share one.
    """

    store: TargetStore
    split: str
    ids: Tensor
    views: int
    columns: dict[str, Column] = field(default_factory=dict)
    entries: dict[str, dict[str, str]] = field(default_factory=dict)

    def groups(self) -> dict[str, Group | None]:
        """The group that holds each column; None if the column is missing."""
        known = [group for group in self.store.groups() if group.split == self.split]
        found: dict[str, Group | None] = {}
        wanted = Group.of(self.split, self.ids, {}).ids
        for name, column in self.columns.items():
            fit = (g for g in known if g.ids == wanted and g.columns.get(name) == column.encoding)
            found[name] = next(fit, None)
        return found

    def missing(self) -> list[tuple[Group, list[Shard]]]:
        """The missing shards by group; columns that are in no group get a new group."""
        groups = self.groups()
        lost = {name: self.columns[name].encoding for name, group in groups.items() if group is None}
        there = {group.identity: group for group in groups.values() if group is not None}
        if lost:
            made_by = {name: self.columns[name].made_by() for name in lost}
            new = Group.of(self.split, self.ids, lost, made_by)
            there[new.identity] = new
        found = [(group, self.store.missing(group, self.views)) for group in there.values()]
        return [(group, shards) for group, shards in found if shards]


def about(spec: RunSpec, name: str) -> dict[str, Any]:
    """The content of ``store.json`` for teacher ``name`` of a run; its ``identity`` names the store."""
    views = {key: value for key, value in spec.views.essence().items() if key != "count"}
    essence = spec.essence()
    return {
        "identity": {
            "task": spec.task.essence(),
            "dataset": spec.dataset.essence(),
            "views": views,
            "teacher": essence["teachers"][name],
        },
        "teacher": name,
        "run": spec.to_dict(),
        "ray_kd": __version__,
    }


def sources(
    spec: RunSpec,
    dataset: Dataset,
    teachers: Mapping[str, nn.Module],
    paths: Iterable[Path],
    store: Store,
) -> list[Source]:
    """The stored targets that a run needs, one source for each teacher and split.

    Args:
        teachers: modules of the needed teachers, trained or not; their outputs for a sample give the shapes.
    """
    task = create_task(spec, dataset)
    views = create_views(spec, dataset)
    found = []
    for place, (name, model) in enumerate(teachers.items()):
        target_store = TargetStore(store, about(spec, name))
        mine = [path for path in paths if spec.teacher_of(path.options) == name]
        if mine:
            source = Source(target_store, "train", dataset.train.ids, spec.distinct_views())
            outputs = _one(model, dataset.train, views)
            for path in mine:
                for entry, values in path.target(outputs).items():
                    column = Column(_encoding(spec, path, values), entry, path)
                    stored_as = f"{path.stored_as(entry)}@{column.encoding.word}"
                    source.columns[stored_as] = column
                    source.entries.setdefault(path.label, {})[entry] = stored_as
            found.append(source)
        splits = EVALUATION if place == 0 else () if spec.teachers[name].on_purpose else ("validation",)
        for split in splits:
            source = Source(target_store, split, getattr(dataset, split).ids, 1)
            predictions = task.predictions(_one(model, getattr(dataset, split), None))
            if place:  # fidelity needs the first teacher's; another is only compared with chance
                predictions = task.as_outputs(predictions)
            for entry, values in flat(predictions).items():
                column = Column(Encoding.of(values, "float32"), entry, None)
                source.columns[f"answer.{task.name}/{entry}"] = column
            found.append(source)
    return found


def union(lists: Iterable[list[Source]]) -> list[Source]:
    """The sources of several runs, with those of one store and split merged."""
    found: dict[tuple[str, str, str], Source] = {}
    for source in (source for sources in lists for source in sources):
        key = (source.store.identity, source.split, Group.of(source.split, source.ids, {}).ids)
        known = found.setdefault(key, source)
        if known is not source:
            known.views = max(known.views, source.views)
            known.columns = {**source.columns, **known.columns}
    return list(found.values())


def compute(
    source: Source,
    dataset: Dataset,
    views: Views,
    task: Task,
    teacher: Callable[[], LiveTeacher],
    on_shard: OnShard | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> int:
    """Compute the missing shards of a source in this process; returns how many they were."""
    if not source.missing():
        return 0
    with Lock(source.store.root, f"{source.store.folder}/lock", on_wait=on_wait, what="stored targets"):
        work = [(group, shard) for group, shards in source.missing() for shard in shards]
        if not work:
            return 0
        live = teacher()
        prepare(source, live.digest, work)
        for done, (group, shard) in enumerate(work, start=1):
            compute_shard(source, group, shard, dataset, views, task, live)
            if on_shard is not None:
                on_shard(done, len(work))
    return len(work)


def prepare(source: Source, weights: str, work: Iterable[tuple[Group, Shard]]) -> None:
    """Create the folders of the shards."""
    source.store.begin(weights)
    for group in {group.identity: group for group, _ in work}.values():
        source.store.add(group)


def compute_shard(
    source: Source,
    group: Group,
    shard: Shard,
    dataset: Dataset,
    views: Views,
    task: Task,
    teacher: LiveTeacher,
) -> None:
    """Compute one shard and write it."""
    split: Split = getattr(dataset, group.split)
    parts: dict[str, list[Tensor]] = {name: [] for name in group.columns}
    samples = []
    for index in torch.arange(shard.start, shard.stop).split(batch_size(split)):
        batch = viewed(split, index, views if group.split == "train" else None, shard.view, teacher.device)
        values = column_values(source, group.columns, teacher.outputs(batch["image"]), task)
        for name, encoding in group.columns.items():
            parts[name].append(encoding.encode(values[name]))
        samples.append(batch["sample"].cpu())
    rows = {name: torch.cat(found) for name, found in parts.items()}
    write_shard(source.store, group, shard, torch.cat(samples), rows)


def column_values(source: Source, names: Iterable[str], outputs: Outputs, task: Task) -> dict[str, Tensor]:
    """The values of columns for a teacher's outputs, before they are encoded."""
    predictions: dict[str, Tensor] | None = None
    by_path: dict[int, Mapping[str, Tensor]] = {}
    found = {}
    for name in names:
        column = source.columns[name]
        if column.path is None:
            predictions = predictions if predictions is not None else flat(task.predictions(outputs))
            found[name] = predictions[column.entry]
        else:
            known = by_path.setdefault(id(column.path), {}) or column.path.target(outputs)
            by_path[id(column.path)] = known
            found[name] = known[column.entry]
    return found


def viewed(
    split: Split, index: Tensor, views: Views | None, view: int, device: torch.device
) -> dict[str, Tensor]:
    """The samples at ``index`` under a view, as training shows them."""
    if views is not None and views.per_sample:
        return next(Loader({"train": split}, views, device)([Request("train", index, view)]))
    batch = {name: value.to(device) for name, value in split.gather(index).items()}
    return batch if views is None else views(batch, view, split)


def batch_size(split: Split) -> int:
    """Samples in one batch of the teacher."""
    return max(1, min(256, PIXELS // max(1, split.gather(torch.tensor([0]))["image"].numel())))


def flat(outputs: Outputs) -> dict[str, Tensor]:
    """The tensors of ``Outputs`` by name; ``unflat`` is the inverse."""
    found = {f"features/{index}": values for index, values in enumerate(outputs.features)}
    if outputs.logits is not None:
        found["logits"] = outputs.logits
    return {**found, **{f"extra/{name}": values for name, values in outputs.extra.items()}}


def unflat(values: Mapping[str, Tensor]) -> Outputs:
    """The inverse of ``flat``."""
    extra = {
        name.removeprefix("extra/"): found for name, found in values.items() if name.startswith("extra/")
    }
    features = tuple(found for name, found in values.items() if name.startswith("features/"))
    return Outputs(features, values.get("logits"), extra)


def same_targets(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """One run for each combination of settings that targets depend on (not seeds, weights, aggregators)."""
    found: dict[str, RunSpec] = {}
    for spec in specs:
        if spec.targets.source != "stored" or not spec.active_paths():
            continue
        paths = [{**path.essence(), "weight": 0, "corrupt": 0} for path in spec.active_paths()]
        names = {name: about(spec, name)["identity"] for name in spec.needed_teachers()}
        key = json.dumps([names, paths, spec.targets.essence(), spec.distinct_views()], sort_keys=True)
        found.setdefault(key, spec)
    return list(found.values())


def _encoding(spec: RunSpec, path: Path, values: Tensor) -> Encoding:
    precision = spec.targets.precisions.get(path.label, spec.targets.precision)
    top_k = spec.targets.top_k if path.target_kind == "logits" else None
    return Encoding.of(values, precision, top_k)


@torch.no_grad()
def _one(model: nn.Module, split: Split, views: Views | None) -> Outputs:
    """A network's outputs for the first sample of a split."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    was_training = model.training
    batch = viewed(split, torch.tensor([0]), views, 0, device)
    outputs = cast(Outputs, model.eval()(batch["image"]))
    model.train(was_training)
    return outputs

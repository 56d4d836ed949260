"""What a run is made of: dataset, student, teachers, paths, aggregator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ray_kd.aggregation import Aggregator, create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.options import AggregatorOptions, PathOptions
from ray_kd.config.spec import RunSpec
from ray_kd.data import create_views
from ray_kd.data.base import Dataset
from ray_kd.data.create import as_trained
from ray_kd.data.views import Views
from ray_kd.models import create_model
from ray_kd.models.base import StagedModel, stage_channels
from ray_kd.models.create import fitting
from ray_kd.models.sync_norm import synchronise
from ray_kd.models.tapped import TappedModel
from ray_kd.paths import Path, create_path
from ray_kd.paths.feature import FeaturePath
from ray_kd.random_streams import forked, generator, key
from ray_kd.targets.batch_reader import Reading
from ray_kd.targets.open import OpenedTargets, open_stored
from ray_kd.targets.stored_targets import StoredTargets
from ray_kd.tasks import Task, TeacherPredictions, create_task
from ray_kd.teacher import LiveTeacher, Teachers
from ray_kd.teacher.normalise import renormalisation
from ray_kd.training.object_records import Own, require_live
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext


@dataclass
class Parts:
    """Everything that trains or is asked, built once for a run."""

    dataset: Dataset
    views: Views
    task: Task
    student: nn.Module
    teachers: dict[str, LiveTeacher]
    targets: Teachers | StoredTargets
    paths: nn.ModuleList
    aggregator: Aggregator
    judge: Callable[[str], TeacherPredictions] | None = None
    """The predictions of the first teacher, for fidelity, on a split by name."""
    stored: Callable[[str], TeacherPredictions] | None = None
    """With stored targets: a teacher's predictions on the validation split, by the teacher's name."""
    reading: Reading | None = None
    """What another process needs to read the batches with their targets, if these are streamed."""


def build(spec: RunSpec, context: RunContext, cache: ProcessCache, own: Own | None = None) -> Parts:
    """Build a run's parts.

    Raises:
        UserError: stages that do not exist, a teacher that is not trained, weights that do not fit.
    """
    own = own or Own()
    device = context.device
    dataset = as_trained(spec, own.dataset or cache.dataset(spec.dataset, device))
    task, views = create_task(spec, dataset), create_views(spec, dataset)
    student = _student(spec, own, dataset)
    disturb(student, spec)
    stored = spec.targets.source == "stored" and bool(spec.active_paths())
    require_live(spec, own)
    # A teacher of stored targets stays off the device: only its frozen modules and widths are read.
    place = torch.device("cpu") if stored else device
    teachers = {
        name: LiveTeacher(own.teacher, place, renormalisation(spec, name, dataset))
        if own.teacher is not None
        else cache.teacher(spec, name, context.store, place, own.dataset)
        for name in spec.needed_teachers()
    }
    paths = build_paths(spec, student, teachers)
    if isinstance(student, StagedModel):
        student.predict_extra({name for path in paths for name in path.reads})
    networks = {"student": student, **{name: teacher.model for name, teacher in teachers.items()}}
    _look_at_features(networks, paths, dataset)
    modules = nn.ModuleList(paths)
    if context.world > 1 and spec.training.sync_batchnorm:
        student, modules = synchronise(student, device), cast(nn.ModuleList, synchronise(modules, device))
    labels = {path.label: spec.teacher_of(path.options) for path in paths}
    aggregator = aggregator_of(spec.aggregation, paths, spec.seed)
    targets: Teachers | StoredTargets
    judge: Callable[[str], TeacherPredictions] | None = None
    told: Callable[[str], TeacherPredictions] | None = None
    reading: Reading | None = None
    if stored:
        load = partial(cache.fresh_teacher, spec, store=context.store, device=device)
        opened = open_stored(spec, dataset, views, task, teachers, paths, load, context.store, device)
        targets, told, reading = opened.targets, partial(opened.predictions, "validation"), opened.reading
        judge = partial(_stored_predictions, opened, next(iter(teachers)))
    else:
        targets = Teachers(teachers, paths, labels)
        if teachers:
            first = next(iter(teachers.values()))
            judge = partial(_live_predictions, cache, first, task, dataset, context)
    return Parts(
        dataset=dataset,
        views=views,
        task=task,
        student=student.to(device),
        teachers=teachers,
        targets=targets,
        paths=modules.to(device),
        aggregator=aggregator.to(device),
        judge=judge,
        stored=told,
        reading=reading,
    )


def _stored_predictions(opened: OpenedTargets, teacher: str, split: str) -> TeacherPredictions:
    return opened.predictions(split, teacher)


def _live_predictions(
    cache: ProcessCache,
    teacher: LiveTeacher,
    task: Task,
    dataset: Dataset,
    context: RunContext,
    split: str,
) -> TeacherPredictions:
    asked = getattr(dataset, split)
    return cache.predictions(teacher, task, asked, context.device, context.rank, context.world)


def build_paths(spec: RunSpec, student: nn.Module, teachers: dict[str, LiveTeacher]) -> list[Path]:
    """The active paths of a run between its student and its teachers, bound."""
    return [
        bound_path(options, student, teachers[spec.teacher_of(options)].model, spec.seed)
        for options in spec.active_paths()
    ]


def bound_path(options: PathOptions, student: nn.Module, teacher: nn.Module, seed: int) -> Path:
    """A path between two networks, with the parts of the teacher that it needs."""
    path = create_path(
        options,
        student_channels=stage_channels(student),
        teacher_channels=stage_channels(teacher),
        seed=seed,
    )
    with forked(seed, "path", path.label):
        path.bind(teacher)
    return path


def aggregator_of(options: AggregatorOptions, paths: Sequence[Path], seed: int) -> Aggregator:
    """The aggregator of all losses of some paths, with the paths' static weights."""
    names = [name for path in paths for name in path.keys]
    weights = {path.label: static_weight(path) for path in paths}
    return create_aggregator(options, names=names, weights=weights, seed=seed)


def _student(spec: RunSpec, own: Own, dataset: Dataset) -> nn.Module:
    # A network may have a length (or, compiled, refuse to have one): only None is none.
    if own.student is not None:
        return own.student
    return create_model(spec.student, **fitting(spec.student, spec, dataset), seed=spec.seed)


@torch.no_grad()
def disturb(student: nn.Module, spec: RunSpec) -> None:
    """Multiply the initial weights by 1 + ``training.disturb`` x standard normal numbers, if it is not 0."""
    if spec.training.disturb:
        draws = generator(spec.seed, "disturb")
        for values in student.parameters():
            noise = torch.randn(values.shape, generator=draws).to(values.device, values.dtype)
            values.mul_(1 + spec.training.disturb * noise)


def _look_at_features(networks: Mapping[str, nn.Module], paths: list[Path], dataset: Dataset) -> None:
    """Whether features of a user's own networks are laid out as paths read them; two sizes of images tell.

    Where a network takes neither blank images nor another size, each batch's shapes are all that tells.
    """
    if not any(isinstance(path, FeaturePath) and path.stages for path in paths):
        return
    for role, model in networks.items():
        if isinstance(model, TappedModel) or type(model).__module__.startswith("ray_kd."):
            continue  # looked at when it was built, or ours
        channels, height, _ = dataset.train.gather(torch.tensor([0]))["image"].shape[1:]
        try:
            with torch.random.fork_rng(devices=[]):
                TappedModel(model, (), f"the {role} ({type(model).__name__})").measure(channels, height)
        except UserError:
            raise
        except Exception:  # a mistake of the network's own shows itself in the first step
            continue


def static_weight(path: Any) -> float:
    """A path's static weight as a number."""
    return float(path.published_weight if path.options.weight == "published" else path.options.weight)


def step_key(seed: int, step: int, rank: int) -> int:
    """Key of the numbers that a forward pass draws (dropout, say) in one step on one rank."""
    return key(seed, "forward", step, rank)

"""Whether a run's parts fit together, asked before anything trains: not even a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from ray_kd.aggregation import create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.options import Options
from ray_kd.config.plan import Plan
from ray_kd.config.registry import DATASETS, MODELS, PATHS, VIEWS, Registry
from ray_kd.config.spec import INITIAL, RunSpec
from ray_kd.models import create_model
from ray_kd.models.factory import FactoryOptions
from ray_kd.models.weights import begin_with
from ray_kd.outputs import as_outputs
from ray_kd.paths import create_path
from ray_kd.paths.feature import FeaturePath
from ray_kd.training.forward import Shape, telling, try_forward
from ray_kd.training.parts import stage_channels, static_weight

Widths = dict[str, tuple[int, ...]]
"""Channels of each stage, by what identifies a network and what it is asked."""
ImageShape = tuple[int, int, int]
"""Channels, height and width."""
Asked = tuple[Shape, bool]
"""The shape of images that a network is sent, and whether in training mode."""
Made = TypeVar("Made")


def check_run(spec: RunSpec, known: Widths | None = None, shape: ImageShape | None = None) -> None:
    """Build student, teachers, paths and aggregator without memory where they can be, on the meta device,
    and send images of the data's size through the networks.

    Args:
        known: networks that were built before and need not be again; this run's are added.
        shape: channels, height and width of the data's images; None: as its options say, if they do.

    Raises:
        UserError: stages that do not exist, widths that do not match, a forward pass that fails, an
            aggregator that cannot take these paths.
    """
    check_task(spec)
    _build(spec, {} if known is None else known, shape)


def check_plan(plan: Plan) -> None:
    """The same for every trial that is known beforehand, each network and each combination of parts once.

    Raises:
        UserError: names the cell.
    """
    seen, known = set[str](), Widths()
    for trial in plan.trials:
        parts = json.dumps(essence_of_parts(trial.spec), sort_keys=True)
        if parts in seen:
            continue
        seen.add(parts)
        try:
            check_run(trial.spec, known)
        except UserError as error:
            raise UserError(f"sweep '{plan.name}', {trial.cell}: {error}") from None


def check_task(spec: RunSpec) -> None:
    """Whether dataset, views, models and paths are for the run's task.

    Raises:
        UserError: names the part, what it is for, and those that are for the task; or the option of the
            views that does not go with it.
    """
    task = spec.task.component_name
    parts: list[tuple[str, Registry, Options]] = [
        ("dataset", DATASETS, spec.dataset),
        ("views", VIEWS, spec.views),
        ("student", MODELS, spec.student),
    ]
    for name, teacher in spec.teachers.items():
        parts += [(f"teachers.{name}.model", MODELS, teacher.model)]
        parts += [(f"teachers.{name}.views", VIEWS, teacher.views)]
    parts += [(f"paths.{index}", PATHS, path) for index, path in enumerate(spec.paths)]
    for where, registry, options in parts:
        name = options.component_name
        tasks = registry.get(name).tasks
        if task not in tasks:
            fit = [other for other in registry.names() if task in registry.get(other).tasks]
            raise UserError(
                f"{where}: {registry.kind} '{name}' is for {' and '.join(tasks)}, and the task is {task}; "
                f"expected one of {', '.join(fit) or 'none that is registered'}."
            )
        if registry is VIEWS:
            registry.get(name).check(options, task)


def _build(spec: RunSpec, known: Widths, shape: ImageShape | None) -> None:
    student = _widths(spec.student, None, "student", known, asked_of(spec, shape))
    teachers = {
        name: _widths(
            teacher.model,
            teacher.weights,
            f"teachers.{name}.model",
            known,
            asked_of_teacher(spec, name, shape),
            teacher.weights_key,
        )
        for name, teacher in spec.teachers.items()
    }
    paths = []
    for options in spec.active_paths():
        widths = teachers[spec.teacher_of(options)]
        make = partial(create_path, options, student_channels=student, teacher_channels=widths)
        paths.append(_made(f"path '{options.label or options.component_name}'", make))
    with telling(None, f"aggregation ({spec.aggregation.component_name}): it cannot be built"):
        aggregator = create_aggregator(
            spec.aggregation,
            names=[name for path in paths for name in path.keys],
            weights={path.label: static_weight(path) for path in paths},
        )
    between_features = [path.label for path in paths if isinstance(path, FeaturePath) and path.stages]
    if aggregator.tensor == "logits" and between_features:
        raise UserError(
            f"aggregation: '{aggregator.name}' looks at every path's gradient at the student's logits; "
            f"expected paths between logits (soft_target, logits, ...), got '{between_features[0]}', which "
            "compares features."
        )


def asked_of(spec: RunSpec, shape: ImageShape | None = None) -> list[Asked]:
    """What a run's student is asked: a step of training, and evaluation where its images have another size.

    Args:
        shape: of the data's images; None: as its options say, if they do.
    """
    dataset, training, workers = spec.dataset, spec.training, spec.resources.workers
    shape = shape or DATASETS.get(dataset.component_name).image_shape(dataset)
    if shape is None:
        return []
    channels, *size = shape
    shown = getattr(spec.views, "size", None) or size  # views of files have a size of their own
    # BatchNorm sees the batch of all workers together, unless it is told not to; two samples are as many.
    batch = min(2, training.batch_size if training.sync_batchnorm else training.batch_size // workers)
    asked = [((batch, channels, *shown), True), ((2, channels, *size), False)]
    return asked if tuple(shown) != tuple(size) else asked[:1]


def asked_of_teacher(spec: RunSpec, name: str, shape: ImageShape | None = None) -> list[Asked]:
    """What a teacher is asked: what its own training asks, and answers to the student's images."""
    own = asked_of(spec.teacher_run(name), shape) if spec.teachers[name].weights is None else []
    answers = [((2, *images[1:]), False) for images, _ in asked_of(spec, shape)]
    return [*own, *(asked for asked in answers if asked[0][1:] not in [images[1:] for images, _ in own])]


def _widths(
    options: Options,
    weights: str | None,
    where: str,
    known: Widths,
    asked: list[Asked],
    weights_key: str | None = None,
) -> tuple[int, ...]:
    """A network's channels; it is built, asked, and its weights looked for, once."""
    key = json.dumps([options.full(), weights, weights_key, asked], sort_keys=True, default=str)
    if key not in known:
        # The number of classes changes no stage, and without a size to ask about channels do not either.
        channels = asked[0][0][1] if asked else 3
        make = partial(create_model, options, classes=10, channels=channels)
        model = _made(f"{where} ({options.component_name})", make)
        if weights is not None and weights != INITIAL:
            begin_with(model, weights, key=weights_key)
        place = f"{where} ({options.component_name})"
        ours = type(options).__module__.startswith("ray_kd.") and not isinstance(options, FactoryOptions)
        for images, training in asked:
            found = try_forward(model, images, place, training=training, real=make, trusted=ours)
            if found is not None or not ours:
                as_outputs(found, place)
        known[key] = stage_channels(model)
    return known[key]


def _made(where: str, make: Callable[[], Made]) -> Made:
    """A part, built without memory, or with it where it cannot do without values.

    Raises:
        UserError: it cannot be built.
    """
    try:
        with torch.device("meta"):
            return make()
    except UserError:
        raise
    except Exception:  # a mistake, or something that the meta device does not have
        with telling(None, f"{where}: it cannot be built"):
            return make()


def essence_of_parts(spec: RunSpec) -> list[Any]:
    """What says whether a run's parts fit together: the same for all seeds and lengths of training."""
    teachers = {name: teacher.model.essence() for name, teacher in spec.teachers.items()}
    paths = [path.essence() for path in spec.active_paths()]
    views = [spec.views.essence(), *(teacher.views.essence() for teacher in spec.teachers.values())]
    about = [spec.task.essence(), spec.dataset.essence(), views]
    return [about, spec.student.essence(), teachers, paths, spec.aggregation.essence()]

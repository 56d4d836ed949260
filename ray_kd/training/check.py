"""Whether a run's parts fit together, asked before anything trains: not even a teacher."""

from __future__ import annotations

import json
from typing import Any

import torch

from ray_kd.aggregation import create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.options import Options
from ray_kd.config.plan import Plan
from ray_kd.config.registry import DATASETS, MODELS, PATHS, VIEWS, Registry
from ray_kd.config.spec import INITIAL, RunSpec
from ray_kd.models import create_model
from ray_kd.models.weights import begin_with
from ray_kd.paths import create_path
from ray_kd.paths.feature import FeaturePath
from ray_kd.training.parts import stage_channels, static_weight

Widths = dict[str, tuple[int, ...]]
"""Channels of each stage, by what identifies a network."""


def check_run(spec: RunSpec, known: Widths | None = None) -> None:
    """Build student, teachers, paths and aggregator without memory, on the meta device.

    Args:
        known: networks that were built before and need not be again; this run's are added.

    Raises:
        UserError: stages that do not exist, widths that do not match, an aggregator that cannot take
            these paths.
    """
    check_task(spec)
    try:
        with torch.device("meta"):
            _build(spec, {} if known is None else known)
    except UserError:
        raise
    except Exception:
        return  # a component that cannot be built this way; the run itself will build it for real


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


def _build(spec: RunSpec, known: Widths) -> None:
    student = _widths(spec.student, None, known)
    teachers = {
        name: _widths(teacher.model, teacher.weights, known, teacher.weights_key)
        for name, teacher in spec.teachers.items()
    }
    paths = [
        create_path(options, student_channels=student, teacher_channels=teachers[spec.teacher_of(options)])
        for options in spec.active_paths()
    ]
    with torch.device("cpu"):  # it reads the weights it is given
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


def _widths(
    options: Options, weights: str | None, known: Widths, weights_key: str | None = None
) -> tuple[int, ...]:
    """A network's channels; it is built, and its weights looked for, once."""
    key = json.dumps([options.full(), weights, weights_key], sort_keys=True, default=str)
    if key not in known:
        model = create_model(options, classes=10, channels=3)  # the data's own sizes change no stage
        if weights is not None and weights != INITIAL:
            begin_with(model, weights, key=weights_key)
        known[key] = stage_channels(model)
    return known[key]


def essence_of_parts(spec: RunSpec) -> list[Any]:
    """What says whether a run's parts fit together: the same for all seeds and lengths of training."""
    teachers = {name: teacher.model.essence() for name, teacher in spec.teachers.items()}
    paths = [path.essence() for path in spec.active_paths()]
    views = [spec.views.essence(), *(teacher.views.essence() for teacher in spec.teachers.values())]
    about = [spec.task.essence(), spec.dataset.essence(), views]
    return [about, spec.student.essence(), teachers, paths, spec.aggregation.essence()]

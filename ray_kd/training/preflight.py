"""What is checked before anything trains: that a run's parts fit together, and that gradients reach them.

``check_run`` and ``check_plan`` need the spec alone: they build everything without memory and train not
even a teacher. ``check_parts`` needs the parts themselves, and asks before step 1 whether each path gets its
target, gradients flow, and the teacher can teach. Nothing here changes a number of the run: no random stream,
no statistic, no gradient, no path's state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL
from ray_kd.config.options import Options
from ray_kd.config.plan import Plan
from ray_kd.config.registry import DATASETS, MODELS, PATHS, VIEWS, Registry
from ray_kd.config.spec import RunSpec
from ray_kd.config.teacher import Teacher
from ray_kd.data.batches import in_order
from ray_kd.models import create_model
from ray_kd.models.base import stage_channels
from ray_kd.models.factory import FactoryOptions
from ray_kd.models.weights import begin_with
from ray_kd.outputs import Outputs, as_outputs
from ray_kd.paths import Path, create_path
from ray_kd.paths.feature import FeaturePath
from ray_kd.training.build import Parts, aggregator_of
from ray_kd.training.engine import require_accumulation
from ray_kd.training.network_checks import Shape, made, naming_module, try_forward
from ray_kd.training.object_records import Own
from ray_kd.training.probing import training_mode
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext, resolve_precision

Widths = dict[str, tuple[int, ...]]
"""Channels of each stage, by what identifies a network and what it is asked."""
ImageShape = tuple[int, int, int]
"""Channels, height and width."""
Asked = tuple[Shape, bool]
"""The shape of images that a network is sent, and whether in training mode."""
SAMPLES = 8
"""Training samples with which the flow of gradients is checked."""


def check_run(spec: RunSpec, known: Widths | None = None, shape: ImageShape | None = None) -> None:
    """Build student, teachers, paths and aggregator without memory where they can be, on the meta device,
    and send images of the data's size through the networks; the same for teachers that other teachers train.

    Args:
        known: networks that were built before and need not be again; this run's are added.
        shape: channels, height and width of the data's images; None: as its options say, if they do.

    Raises:
        UserError: stages that do not exist, widths that do not match, a forward pass that fails, an
            aggregator that cannot take these paths.
    """
    known = {} if known is None else known
    spec.require_named()
    check_task(spec)
    _build(spec, known, shape)
    check_assistants(spec, known, shape)


def check_assistants(spec: RunSpec, known: Widths, shape: ImageShape | None = None) -> None:
    """``check_run`` for the runs of those teachers that learn from others."""
    for name in (name for name, teacher in spec.teachers.items() if teacher.paths):
        run = spec.teacher_run(name)
        try:
            check_task(run)
            _build(run, known, shape)
        except UserError as error:
            raise UserError(f"teachers.{name}: {error}") from None


def check_plan(plan: Plan) -> None:
    """The same for every trial that is known beforehand, each network and each combination of parts once."""
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
        if registry is MODELS and task in tasks and getattr(options, "task", task) != task:
            raise UserError(f"{where}.task: expected {task}, the run's, got {options.task}.")  # type: ignore[attr-defined]
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
        paths.append(made(f"path '{options.label or options.component_name}'", make))
    with naming_module(None, f"aggregation ({spec.aggregation.component_name}): it cannot be built"):
        aggregator = aggregator_of(spec.aggregation, paths, spec.seed)
    if spec.training.accumulate > 1:
        try:
            require_accumulation(aggregator, paths)
        except UserError as error:
            raise UserError(f"training.accumulate: {spec.training.accumulate}: {error}") from None
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
    # BatchNorm sees the batch of all workers together where it is synchronised; two samples are enough.
    together = training.batch_size // training.accumulate
    batch = min(2, together if training.sync_batchnorm else together // workers)
    asked = [((batch, channels, *shown), True), ((2, channels, *size), False)]
    return asked if tuple(shown) != tuple(size) else asked[:1]


def asked_of_teacher(spec: RunSpec, name: str, shape: ImageShape | None = None) -> list[Asked]:
    """What a teacher is asked: what its own training asks, and predictions for the student's images."""
    own = asked_of(spec.teacher_run(name), shape) if spec.teachers[name].trained_here else []
    for_student = [((2, *images[1:]), False) for images, _ in asked_of(spec, shape)]
    return [*own, *(asked for asked in for_student if asked[0][1:] not in [images[1:] for images, _ in own])]


def _widths(
    options: Options,
    weights: str | None,
    where: str,
    known: Widths,
    asked: list[Asked],
    weights_key: str | None = None,
) -> tuple[int, ...]:
    """A network's channels; it is built and tried, and its weights are compared, once."""
    key = json.dumps([options.full(), weights, weights_key, asked], sort_keys=True, default=str)
    if key not in known:
        # The number of classes changes no stage, and without a size to ask about channels do not either.
        channels, size = (asked[0][0][1], asked[0][0][2:]) if asked else (3, None)
        make = partial(create_model, options, classes=10, channels=channels, size=size)
        model = made(f"{where} ({options.component_name})", make)
        if weights is not None and weights != INITIAL:
            begin_with(model, weights, key=weights_key)
        named = f"{where} ({options.component_name})"
        ours = type(options).__module__.startswith("ray_kd.") and not isinstance(options, FactoryOptions)
        for images, training in asked:
            found = try_forward(model, images, named, training=training, real=make, trusted=ours)
            if found is not None or not ours:
                as_outputs(found, named)
        known[key] = stage_channels(model)
    return known[key]


def essence_of_parts(spec: RunSpec) -> list[Any]:
    """What says whether a run's parts fit together: the same for all seeds and lengths of training."""
    taught: list[RunSpec | Teacher] = [spec, *spec.teachers.values()]
    views = [one.views.essence() for one in taught]
    about = [spec.task.essence(), spec.dataset.essence(), views]
    models = [spec.student.essence(), {name: one.model.essence() for name, one in spec.teachers.items()}]
    paths = [[path.essence() for path in one.paths if path.weight != 0] for one in taught]
    how = [[one.aggregation.essence(), one.training.accumulate] for one in taught]
    return [about, models, paths, how]


def check_parts(
    spec: RunSpec, parts: Parts, context: RunContext, cache: ProcessCache, own: Own | None = None
) -> None:
    """Ask all of it, in a process once for the same parts; every rank has to come here.

    Args:
        own: a user's own objects among the parts; they are checked every time.

    Raises:
        UserError: a path without a target, an adapter or a student that no gradient reaches, a teacher no
            better than chance; a network, a path or a task that fails on the first samples.
    """
    check_teachers(spec, parts, context, cache)
    most = max(1, spec.training.batch_size // context.world)
    dtype = resolve_precision(spec.training.precision, context.device)
    if own is not None:
        check_gradients(parts, context, most, dtype)
    else:  # a sweep's next trial differs in its seed, say
        key = ("gradients", essence_of_parts(spec), context.device, context.world)
        cache.once(key, lambda: check_gradients(parts, context, most, dtype))


def check_teachers(spec: RunSpec, parts: Parts, context: RunContext, cache: ProcessCache) -> None:
    """Whether every teacher, unless it is wrong on purpose, beats chance on validation samples."""
    for name, live in parts.teachers.items():
        if spec.teachers[name].on_purpose:
            continue
        predictions = parts.stored(name) if parts.stored is not None else None
        figures = cache.figures(live, parts.task, parts.dataset.validation, predictions, context)
        reason = parts.task.chance(figures)
        if reason is not None:
            key = f"teachers.{name}"
            raise UserError(
                f"teacher '{name}' is no better than chance on validation: {reason}. It has nothing to "
                f"teach: train it longer ({key}.training.epochs), or look at its weights, its classes and "
                f"what its images are normalised with ({key}.normalise). If that is the point: "
                f"{key}.at_chance: go_on."
            )


def check_gradients(parts: Parts, context: RunContext, most: int, dtype: torch.dtype) -> None:
    """Whether each path gets its target and sends a gradient to the student and to all it trains itself.

    Looked at with one forward and one backward for each path on a few training samples without views.

    Args:
        most: samples that this rank has in a step.
    """
    batch = dict(next(in_order(parts.dataset.train, context.device, size=min(SAMPLES, most))))
    batch["view"] = torch.zeros_like(batch["sample"])
    with naming_module(None, "targets: a teacher or a path fails on the first batch"):
        targets = parts.targets.targets(batch)
    paths = list(cast("list[Path]", parts.paths))
    for path in paths:
        if not targets.get(path.label):
            raise UserError(f"path '{path.label}' got no target from its teacher.")
    mixed = torch.autocast(context.device.type, dtype=dtype, enabled=dtype != torch.float32)
    with training_mode(parts.student, parts.paths), mixed:
        with naming_module(parts.student, "student: its forward pass fails on the first batch"):
            outputs = cast(Outputs, parts.student(batch["image"]))
        with naming_module(parts.student, "task: its loss fails on the first batch"):
            parts.task.loss(outputs, batch)
        for path in paths:
            with naming_module(path, f"path '{path.label}': it fails on the first batch"):
                require_gradients(path, path(outputs, targets[path.label], batch), parts.student)


def require_gradients(path: Path, losses: Mapping[str, Tensor], student: nn.Module) -> None:
    """Whether a path's losses are all there, and send a gradient to the student and to all it trains itself.

    Args:
        losses: of a batch, by name, with their graph, which is kept.
    """
    missing = [key for key in path.keys if key not in losses]
    if missing:
        raise UserError(
            f"path '{path.label}' gave no loss '{missing[0]}', only {', '.join(losses) or 'none'}."
        )
    total = torch.stack([losses[key] for key in path.keys]).sum()
    own = {name: value for name, value in path.named_parameters() if value.requires_grad}
    trained = [value for value in student.parameters() if value.requires_grad]
    if not total.requires_grad:
        raise UserError(f"path '{path.label}': its loss depends on nothing that trains: no gradient.")
    found = torch.autograd.grad(total, [*own.values(), *trained], retain_graph=True, allow_unused=True)
    for name, gradient in zip(own, found, strict=False):
        if gradient is None:
            raise UserError(
                f"path '{path.label}': no gradient reaches its '{name}', which would never train."
            )
    if all(gradient is None for gradient in found[len(own) :]):
        raise UserError(
            f"path '{path.label}': no gradient reaches the student: are its outputs detached, or all its "
            "weights frozen?"
        )

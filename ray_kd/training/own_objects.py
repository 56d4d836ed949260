"""Checks a user's own networks and datasets, as ``distill`` takes them, before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS, PATHS
from ray_kd.config.screen import logger
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, MapSplit
from ray_kd.data.sample_checks import COLUMNS, SPLITS, SampleChecks, check_dataset
from ray_kd.data.user_sets import class_names, columns_of, known_classes, require_set
from ray_kd.models import create_model
from ray_kd.models.tapped import TappedModel
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths.feature import FeaturePath
from ray_kd.training.network_checks import check_outputs, require_apart, try_forward
from ray_kd.training.object_records import Own, require_live
from ray_kd.training.preflight import (
    Asked,
    ImageShape,
    asked_of,
    asked_of_teacher,
    check_assistants,
    check_task,
)
from ray_kd.training.process_cache import ProcessCache

LOG = logger(__name__)

FIRST = 8
"""Samples of each set that are read before anything trains."""


def own_dataset(spec: RunSpec, sets: Mapping[str, Any], classes: int | None, student: Any) -> Dataset:
    """A user's three sets as a dataset whose every batch is checked.

    Args:
        classes: how many there are; None: as the labels or the names say that the sets have beside their
            samples, else as many as the student has logits for. No image is read to count them.

    Raises:
        UserError: a set that is not taken (see ``data.user_sets``) or is empty, a first batch that is not
            right, sets whose classes differ, or nothing that says how many there are.
    """
    dataset, column = Dataset(), COLUMNS[spec.task.component_name]
    for name in SPLITS:
        setattr(dataset, name, own_split(spec, sets[name], name))
    first = {name: _first(getattr(dataset, name), column, name) for name in SPLITS}
    dataset.channels = first["train"]["image"].shape[1]
    known = {name: known_classes(sets[name], column, getattr(dataset, name)) for name in SPLITS}
    labels = {name: part.labels for name, part in known.items()}
    names = class_names(known)
    found = _count([values for values in labels.values() if values is not None], column, names)
    if classes is None and labels["train"] is None and names is None:
        if student is not None:
            classes = _width(spec, student, first["train"]["image"])
        if classes is None:
            raise _unknown(sets["train"], column, known["train"].doubt)
    dataset.classes = found if classes is None else classes
    dataset.class_names = _fitting(names, dataset.classes)
    remedy = "A class that train does not have? Say how many there are: distill(..., classes=N)."
    for name, values in labels.items():
        if values is not None and column == "label":
            checks = SampleChecks(name, {"label": dataset.classes}, 0, remedy=remedy)
            _require_classes(values, checks, len(names) if classes is None and names else classes)
    _say_new_classes(labels, dataset.class_names)
    check_dataset(dataset, "distill", remedy)
    for name in SPLITS:
        split = getattr(dataset, name)
        split.gather(torch.arange(min(FIRST, len(split))))
    return dataset


def own_split(spec: RunSpec, given: Any, name: str) -> MapSplit:
    """One of a user's sets as a split.

    Raises:
        UserError: it is not taken (see ``data.user_sets``), or is empty.
    """
    require_set(given, name)
    return MapSplit(given, name, columns=columns_of(given, COLUMNS[spec.task.component_name], name))


def _unknown(train: Any, column: str, doubt: str) -> UserError:
    """Nothing says how many classes there are."""
    why = doubt or (
        "it has no labels beside its samples (targets, labels)"
        if column == "label"
        else "its masks or boxes lie in its samples"
    )
    return UserError(
        f"distill: classes: expected how many there are, classes=N: train ({type(train).__name__}) does not "
        f"say it, since {why}, and images are not read to count them."
    )


def _fitting(names: tuple[str, ...] | None, count: int) -> tuple[str, ...] | None:
    """Names of so many classes; None where there are more or fewer names."""
    if names is not None and len(names) != count:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        LOG.warning(
            "classes: %d, and the sets name %d (%s); the records go without names", count, len(names), shown
        )
        return None
    return names


def check_own_objects(spec: RunSpec, own: Own, cache: ProcessCache, device: torch.device) -> None:
    """Send images of the data's size through all networks of a run of own objects; those that return logits
    alone, or a mapping, are wrapped in place.

    Raises:
        UserError: a network that fails, or whose outputs do not fit the data or each other.
    """
    require_live(spec, own)
    check_task(spec)
    task = spec.task.component_name
    data = own.dataset or cache.dataset(spec.dataset, device)
    channels, height, width = data.train.gather(torch.tensor([0]))["image"].shape[1:]
    shape = (int(channels), int(height), int(width))
    classes = data.classes_of(task)
    student = partial(create_model, spec.student, classes=classes, channels=shape[0], size=shape[1:])
    own.student, outputs = _asked(own.student, student, "student", asked_of(spec, shape), task, classes)
    if own.teacher is None:
        # Own sets are not what an assistant learns from; a dataset that says its shape is asked itself.
        known = DATASETS.get(spec.dataset.component_name).image_shape(spec.dataset)
        check_assistants(spec, {}, shape if known is None and own.dataset is None else None)
    for name in spec.needed_teachers():
        options = spec.teachers[name].model
        taught = _shape_taught(spec, name, own, shape)
        make = partial(create_model, options, classes=classes, channels=taught[0], size=taught[1:])
        asked = asked_of_teacher(spec, name, shape)
        teacher, teacher_outputs = _asked(own.teacher, make, f"teacher '{name}'", asked, task, None)
        own.teacher = teacher if own.teacher is not None else None
        if own.student is not None and own.teacher is not None:
            require_apart(own.student, own.teacher, name)
        theirs, ours = teacher_outputs.logits, outputs.logits
        if theirs is None or ours is None or task == "detection":
            continue
        if theirs.shape[1] != ours.shape[1]:
            raise UserError(
                f"teacher '{name}' has logits for {theirs.shape[1]} classes, and the student for "
                f"{ours.shape[1]}; expected the same classes. Give the teacher a last layer for them, or "
                "pass a teacher that returns their logits alone."
            )
    _require_features(spec, {"student": own.student, "teacher": own.teacher})


def _shape_taught(spec: RunSpec, name: str, own: Own, shape: ImageShape) -> ImageShape:
    """Channels, height and width that a teacher of the spec is built for; own sets are not what it learnt."""
    trained = own.dataset is not None and spec.teachers[name].trained_here
    options = spec.teacher_run(name).dataset if trained else spec.dataset
    found: ImageShape | None = DATASETS.get(options.component_name).image_shape(options)
    return found or shape


def _require_features(spec: RunSpec, networks: Mapping[str, nn.Module | None]) -> None:
    """Whether no path compares features of a network that returns none."""
    for options in spec.active_paths():
        kind = PATHS.get(options.component_name)
        for who, model in networks.items():
            bare = isinstance(model, TappedModel) and not model.stage_channels
            if bare and issubclass(kind, FeaturePath) and getattr(options, "on", None) != "logits":
                raise UserError(
                    f"path '{options.label or kind.name}' compares features, and the {who} returns logits "
                    "alone; expected ray_kd.Outputs with features, and stage_channels that count theirs."
                )


def _asked(
    given: nn.Module | None,
    make: Callable[[], nn.Module],
    where: str,
    asked: list[Asked],
    task: str,
    classes: int | None,
) -> tuple[nn.Module | None, Outputs]:
    """An own network (or the spec's, built without memory), wrapped if need be, and its outputs."""
    if given is None:
        with torch.device("meta"):
            model = make()
    else:
        model, where = given, f"{where} ({type(given).__name__})"
    real = make if given is None else None
    for images, training in asked:
        found = try_forward(model, images, where, training=training, real=real)
        outputs = check_outputs(found, task, classes, model, where)
    if given is not None and not isinstance(found, Outputs):
        model = TappedModel(given, (), where)
        model.stage_channels = ()
        if outputs.features:
            model.measure(images[1], (images[2], images[3]))
    return (None if given is None else model), outputs


def _first(split: MapSplit, column: str, name: str) -> dict[str, Tensor]:
    """The first samples of a set."""
    batch = split.gather(torch.arange(min(FIRST, len(split))))
    if column not in batch:
        others = ", ".join(key for key in batch if key not in ("image", "sample"))
        raise UserError(f"{name}: the task needs '{column}' of each sample; it has {others or 'nothing'}.")
    return batch


def _width(spec: RunSpec, student: nn.Module, images: Tensor) -> int | None:
    """How many classes an own student has logits for."""
    where = f"student ({type(student).__name__})"
    found = try_forward(student, (2, *images.shape[1:]), where)  # type: ignore[arg-type]
    logits = check_outputs(found, spec.task.component_name, None, student, where).logits
    return None if logits is None or spec.task.component_name == "detection" else int(logits.shape[1])


def _count(known: list[Tensor], column: str, names: tuple[str, ...] | None) -> int:
    """The number of classes: of those that have names, else the largest known label and 1."""
    if names is not None:
        return len(names)
    ignored = {"mask": IGNORE, "box_label": -1}.get(column)
    found = [values if ignored is None else values[values != ignored] for values in known]
    # What is no number is refused in its batch, with its sample.
    return 1 + max([0, *(int(values.nan_to_num(0, 0, 0).max()) for values in found if len(values))])


def _say_new_classes(labels: Mapping[str, Tensor | None], names: tuple[str, ...] | None) -> None:
    """Warn of classes that the student is evaluated on and cannot learn, and of names that nothing has."""
    occur = {name: set(values.unique().tolist()) for name, values in labels.items() if values is not None}
    trained = occur.get("train")
    if trained is None:
        return
    for name in ("validation", "test"):
        new = sorted(occur.get(name, set()) - trained - {IGNORE, -1})
        if new:
            shown = ", ".join(f"{value:g}" if names is None else names[int(value)] for value in new[:8])
            LOG.warning("%s has classes that train does not have: %s", name, shown)
    lacking = [name for number, name in enumerate(names or ()) if number not in set().union(*occur.values())]
    if lacking:
        shown = ", ".join(lacking[:8])
        LOG.warning("no sample is of %d of the %d classes: %s", len(lacking), len(names or ()), shown)


def _require_classes(labels: Tensor, checks: SampleChecks, given: int | None) -> None:
    """Whether the known labels of a set are classes from 0 on."""
    present = checks.whole_numbers(labels, "label").unique()
    largest = int(present[-1])
    if given is None and largest == IGNORE and (len(present) < 2 or int(present[-2]) < IGNORE - 1):
        checks = replace(checks, classes={"label": IGNORE})  # it names the sample
    elif given is None and checks.where == "train" and int(present[0]) >= 1:
        raise UserError(
            f"train: label: expected classes from 0 on, got {int(present[0])} to {largest}. Subtract 1; "
            f"or, if class 0 is only missing here, say how many there are: classes={largest + 1}."
        )
    checks.label(labels)

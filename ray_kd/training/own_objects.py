"""Checks a user's own networks and datasets, as ``distill`` takes them, before anything trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS, PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, MapSplit
from ray_kd.data.sample_checks import SPLITS, SampleChecks, check_dataset
from ray_kd.data.user_samples import read_sample, stack_column
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

LOG = logging.getLogger(__name__)

FIRST = 8
"""Samples of each set that are read before anything trains."""
COLUMNS = {"classification": "label", "segmentation": "mask", "detection": "box_label"}
"""Where each task has its classes."""


def own_dataset(spec: RunSpec, sets: Mapping[str, Any], classes: int | None, student: Any) -> Dataset:
    """A user's three sets as a dataset whose every batch is checked.

    Args:
        classes: how many there are; None: as the labels say where the sets have them beside the samples, else
            as many as the student has logits for, else the training samples are read once for their labels.

    Raises:
        UserError: a set that is none, is empty or has no length, or a first batch that is not right.
    """
    dataset, column = Dataset(), COLUMNS[spec.task.component_name]
    for name in SPLITS:
        _require_map(sets[name], name)
        setattr(dataset, name, MapSplit(sets[name], name))
    first = {name: _first(getattr(dataset, name), column, name) for name in SPLITS}
    dataset.channels = first["train"]["image"].shape[1]
    labels = {name: known_labels(sets[name], column, first[name]) for name in SPLITS}
    known = [values for values in labels.values() if values is not None]
    if classes is None and labels["train"] is None and student is not None:
        classes = _width(spec, student, first["train"]["image"])
    if classes is None and labels["train"] is None:
        read = (
            read_sample(sets["train"][i], f"train, sample {i}")[column] for i in range(len(sets["train"]))
        )
        labels["train"] = found = _flat(read, column, "train")
        known.append(found)
    dataset.classes = _count(known, column) if classes is None else classes
    remedy = "A class that train does not have? Say how many there are: distill(..., classes=N)."
    for name, values in labels.items():
        if values is not None and column == "label":
            _require_classes(
                values, SampleChecks(name, {"label": dataset.classes}, 0, remedy=remedy), classes
            )
    _say_new_classes(labels)
    check_dataset(dataset, "distill", remedy)
    for name in SPLITS:
        split = getattr(dataset, name)
        split.gather(torch.arange(min(FIRST, len(split))))
    return dataset


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
        check_assistants(
            spec, {}, DATASETS.get(spec.dataset.component_name).image_shape(spec.dataset) or shape
        )
    for name in spec.needed_teachers():
        options = spec.teachers[name].model
        taught = _shape_taught(spec, name, own, shape)
        make = partial(create_model, options, classes=classes, channels=taught[0], size=taught[1:])
        asked = [((2, *shape), False)] if own.teacher is not None else asked_of_teacher(spec, name, shape)
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
    trained = own.dataset is not None and own.teacher is None and spec.teachers[name].weights is None
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


def _require_map(given: Any, name: str) -> None:
    """Whether something is a map-style dataset with samples in it."""
    kind = type(given).__name__
    if isinstance(given, DataLoader):
        raise UserError(f"{name}: expected a dataset, got a DataLoader; pass what it reads: loader.dataset.")
    if (
        not hasattr(given, "__getitem__")
        or not hasattr(given, "__len__")
        or isinstance(given, (str, Mapping))
    ):
        raise UserError(
            f"{name}: expected a map-style dataset, with len(dataset) and dataset[i], got {kind}. Of an "
            "iterable one make a list, if it fits into memory."
        )
    try:
        count = len(given)
    except TypeError:
        raise UserError(
            f"{name}: expected a dataset that has a length, got {kind}, whose len() fails."
        ) from None
    if not count:
        raise UserError(f"{name}: expected at least one sample, got none.")


def _first(split: MapSplit, column: str, name: str) -> dict[str, Tensor]:
    """The first samples of a set."""
    batch = split.gather(torch.arange(min(FIRST, len(split))))
    if column not in batch:
        others = ", ".join(key for key in batch if key not in ("image", "sample"))
        raise UserError(f"{name}: the task needs '{column}' of each sample; it has {others or 'nothing'}.")
    return batch


def known_labels(given: Any, column: str, first: Mapping[str, Tensor] | None = None) -> Tensor | None:
    """All classes in a set, where it has them beside the samples; None where they would have to be read.

    Args:
        first: its first samples, which have to say the same.
    """
    found = _beside(given, column)
    if found is None or first is None or column != "label":
        return found
    there = first["label"].flatten().to(found.dtype)
    return found if torch.equal(found[: len(there)], there) else None  # a transform makes others of them


def _beside(given: Any, column: str) -> Tensor | None:
    if isinstance(given, (list, tuple)):
        return _flat((read_sample(item, "sample")[column] for item in given), column, "samples")
    if column != "label":
        return None
    if isinstance(given, Subset):
        whole = _beside(given.dataset, column)
        return None if whole is None else whole[torch.as_tensor(list(given.indices), dtype=torch.long)]
    if isinstance(given, ConcatDataset):
        parts = [_beside(part, column) for part in given.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if isinstance(given, TensorDataset):
        values: Any = given.tensors[1] if len(given.tensors) == 2 else None
    else:
        values = next((getattr(given, name) for name in ("targets", "labels") if hasattr(given, name)), None)
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    fit = labels.dim() == 1 and len(labels) == len(given) and not labels.is_complex()
    return labels if fit else None


def _flat(values: Iterable[Any], column: str, where: str) -> Tensor:
    """Classes of samples one after the other; one-hot ones as their class."""
    parts = []
    for value in values:
        tensor = stack_column([value], column, where)[0]
        one_hot = column == "label" and tensor.dim() == 1 and len(tensor) > 1
        parts.append(tensor.int().argmax()[None] if one_hot else tensor.flatten())
    if column != "label":
        parts = [part.unique() for part in parts]
    kinds = {part.dtype for part in parts if part.numel()}
    return torch.cat([part.double() if len(kinds) > 1 else part for part in parts])


def _width(spec: RunSpec, student: nn.Module, images: Tensor) -> int | None:
    """How many classes an own student has logits for."""
    where = f"student ({type(student).__name__})"
    found = try_forward(student, (2, *images.shape[1:]), where)  # type: ignore[arg-type]
    logits = check_outputs(found, spec.task.component_name, None, student, where).logits
    return None if logits is None or spec.task.component_name == "detection" else int(logits.shape[1])


def _count(known: list[Tensor], column: str) -> int:
    """The number of classes: the largest known label and 1."""
    ignored = {"mask": IGNORE, "box_label": -1}.get(column)
    found = [values if ignored is None else values[values != ignored] for values in known]
    # What is no number is refused in its batch, with its sample.
    return 1 + max([0, *(int(values.nan_to_num(0, 0, 0).max()) for values in found if len(values))])


def _say_new_classes(labels: Mapping[str, Tensor | None]) -> None:
    """Warn of classes that the student is evaluated on and cannot learn."""
    trained = labels["train"]
    for name in ("validation", "test"):
        asked = labels[name]
        if trained is not None and asked is not None:
            new = sorted(set(asked.unique().tolist()) - set(trained.unique().tolist()) - {IGNORE, -1})
            if new:
                shown = ", ".join(f"{value:g}" for value in new[:8])
                LOG.warning("%s has classes that train does not have: %s", name, shown)


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

"""The spec of a run of a user's own objects says what they are, and nothing that they took the place of."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from ray_kd.config.errors import UserError
from ray_kd.config.options import Options, OwnOptions
from ray_kd.config.spec import RunSpec
from ray_kd.config.teacher import Teacher
from ray_kd.data.own import OwnDatasetOptions
from ray_kd.data.sample_checks import SPLITS
from ray_kd.models.own import OwnModelOptions
from ray_kd.training.object_records import Description, Own


def with_objects(spec: RunSpec, own: Own) -> RunSpec:
    """A spec with a user's own objects in it, as ``own.described`` describes them, if it does.

    Raises:
        UserError: a part that the spec does not name and nobody handed over; one teacher for several, or for
            none.
    """
    found, given = own.described, set[str]()
    update: dict[str, Any] = {}
    teachers = dict(spec.teachers)
    if own.student is not None:
        given.add("student")
        update["student"] = _model(found.get("student"))
    if own.teacher is not None:
        name = _only_teacher(spec)
        given.add(f"teachers.{name}.model")
        teachers[name] = _trained(spec.teachers[name], name, _model(found.get("teacher")))
    if own.dataset is not None:
        given.add("dataset")
        update["dataset"] = _dataset(found.get("dataset"))
        for name, teacher in teachers.items():
            if teacher.trained_here and not isinstance(spec.dataset, OwnOptions):
                theirs = spec.teacher_run(name).dataset.full()
                teachers[name] = teacher.model_copy(update={"dataset": theirs})
    spec.require_named(given)
    placed = spec.model_copy(update={**update, "teachers": teachers})
    for name in placed.needed_teachers():
        if placed.teachers[name].trained_here:
            placed.teacher_run(name)  # whether it knows on what
    return placed


def _only_teacher(spec: RunSpec) -> str:
    """The name of the teacher whose place an own teacher takes."""
    needed = spec.needed_teachers()
    if not needed:
        raise UserError(
            "distill: teacher: nothing in the spec would ask it; expected a section 'teacher: {}', and "
            "'paths' that learn from it."
        )
    if len(needed) > 1:
        raise UserError(
            f"distill: teacher: one module cannot take the place of {len(needed)} teachers "
            f"({', '.join(needed)}); expected a spec of one."
        )
    return needed[0]


def _trained(teacher: Teacher, name: str, model: Options) -> Teacher:
    """The section of a teacher that is handed over: nothing of it says how it would be trained."""
    if {"mean", "std"} & teacher.dataset.keys():
        raise UserError(
            f"teachers.{name}.dataset: mean and std belong to the dataset that a teacher is trained on, and "
            f"the one handed over is trained; expected teachers.{name}.normalise: {{mean: ..., std: ...}}."
        )
    at_chance: Literal["go_on", "stop"] = "go_on" if teacher.on_purpose else "stop"
    return Teacher(model=model, normalise=teacher.normalise, at_chance=at_chance)


def _model(found: Description | None) -> OwnModelOptions:
    if not found:
        return OwnModelOptions()
    text = json.dumps(found["tensors"], sort_keys=True)
    return OwnModelOptions(
        object=class_of(found),
        parameters=found["parameters"],
        shapes=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def _dataset(found: Description | None) -> OwnDatasetOptions:
    if not found:
        return OwnDatasetOptions()
    return OwnDatasetOptions(
        objects={name: class_of(found[name]) for name in SPLITS},
        samples={name: found[name]["length"] for name in SPLITS},
        classes=found["classes"],
        image=tuple(found["train"]["sample"]["image"][1]),
    )


def class_of(found: Description) -> str:
    """The class of a described object, with its module."""
    return f"{found['module']}.{found['class']}".removeprefix("builtins.")

"""To export a run of a user's own objects, these are handed over again, and have to be the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import OwnOptions
from ray_kd.data.base import Dataset
from ray_kd.data.sample_checks import check_dataset
from ray_kd.export.run import ToExport
from ray_kd.models.tapped import TappedModel
from ray_kd.storage import Store, shapes
from ray_kd.training.object_records import (
    NAMED,
    Description,
    as_handed_over,
    describe_code,
    describe_network,
    describe_split,
    differences,
    require_same,
)
from ray_kd.training.own_objects import own_split
from ray_kd.training.records import OBJECTS


@dataclass(frozen=True)
class Given:
    """What ``export_run`` is handed of a run of own objects.

    Attributes:
        student: a module as the one that was trained; its weights are not read, and stay as they are.
        test: the test set, as ``distill`` takes it.
    """

    student: nn.Module | None = None
    test: Any = None


def require_given(store: Store, run: ToExport, given: Given, to: str) -> None:
    """Whether what is handed over is what the run's spec does not name, and the same as was trained.

    Args:
        to: where the export is to go, for the call that a message shows.

    Raises:
        UserError: names what is missing and the call that hands it over, what is not wanted, or what differs.
    """
    identity, spec = run.identity, run.spec
    own = {"student": (spec.student, given.student), "test": (spec.dataset, given.test)}
    for argument, (options, value) in own.items():
        if value is not None and not isinstance(options, OwnOptions):
            raise UserError(
                f"export: {argument}: run {identity} has none of your own, but '{options.component_name}'; "
                f"leave {argument}= out."
            )
    wanted = {argument: o for argument, (o, _) in own.items() if isinstance(o, OwnOptions)}
    missing = [argument for argument in wanted if own[argument][1] is None]
    if missing:
        names = {"student": "student", "test": "dataset"}
        objects = " and the ".join(f"{names[name]} ({wanted[name].described()})" for name in missing)
        raise UserError(
            f"export: run {identity} was made of objects of your own, which no file can build anew: the "
            f"{objects}. Hand them over in Python: ray_kd.export.export_run({store.uri!r}, {identity!r}, "
            f"{to!r}, {', '.join(f'{name}=...' for name in wanted)})."
        )
    if given.student is None and given.test is None:
        return require_same(store, f"runs/{identity}", spec)
    known: Description = store.find_json(f"runs/{identity}/{OBJECTS}", shapes.Objects) or {}
    found: Description = {}
    if "size" in known:
        found |= describe_code(spec, known["size"]["classes"], known["size"]["channels"])
    if given.student is not None:
        if not isinstance(given.student, nn.Module):
            kind = type(given.student).__name__
            raise UserError(f"export: student: expected a torch.nn.Module, got {kind}.")
        found["student"] = describe_network(given.student)
    if given.test is not None:
        found["dataset"] = {"test": describe_split(own_split(spec, given.test, "test"))}
    there = {
        what: {key: value for key, value in known.get(what, {}).items() if key in parts}
        for what, parts in found.items()
    }
    changed = list(islice(differences(there, found), NAMED))
    if changed:
        raise UserError(
            f"export: what is handed over is not what run {identity} was made of: {'; '.join(changed)}."
        )


def own_test(run: ToExport, test: Any, store: Store) -> Dataset:
    """A dataset of the test set that was handed over, with what the record says of the run's data."""
    path = f"runs/{run.identity}/dataset.json"
    try:
        about = store.read_json(path, shapes.RunData)
    except FileNotFoundError:
        raise UserError(f"export: there is no {store.path(path)}, which says what the run read.") from None
    dataset = Dataset()
    dataset.classes, dataset.channels = int(about["classes"]), int(about["image"][0])
    dataset.class_names = None if about["class_names"] is None else tuple(about["class_names"])
    # The others are asked for nothing but the size of their images, which is the same.
    dataset.train = dataset.validation = dataset.test = own_split(run.spec, test, "test")
    check_dataset(dataset, "export", "The run's record says how many classes there are.")
    return dataset


def as_student(given: nn.Module) -> TappedModel:
    """A copy of a network as a student, whose weights are under the network's own names."""
    return TappedModel(copy.deepcopy(as_handed_over(given)), (), f"student ({type(given).__name__})")

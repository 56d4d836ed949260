"""A teacher in a spec: its network, and what trains it, which may be other teachers."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ray_kd.config.errors import unknown
from ray_kd.config.files import INITIAL
from ray_kd.config.names import require_name
from ray_kd.config.options import (
    OWN,
    AggregatorField,
    ModelField,
    OwnOptions,
    Path,
    Strict,
    ViewField,
    parse_component,
)
from ray_kd.config.registry import AGGREGATORS, MODELS, VIEWS
from ray_kd.config.targets import Targets, TargetsField
from ray_kd.config.training import Optimizer, Positive, Schedule, Training


class Normalise(Strict):
    """Normalisation of raw images in [0, 1] to a network's input: (image - mean) / std for each channel."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class Teacher(Strict):
    """A teacher: its model, and the run that trains it (or the file that holds its weights)."""

    model: ModelField = Field(default_factory=lambda: parse_component(MODELS, OWN))
    """Left out: a module of your own, ``distill(teacher=...)``."""
    weights: str | None = None
    """A trained teacher: a file of weights (.safetensors, .pt, .pth), or a name that torchvision publishes
    (IMAGENET1K_V2); ``initial``: its initial weights, an untrained teacher; None: train the teacher with
    the settings below."""
    weights_key: str | None = None
    """Which weights of the file to load, if it holds several: a key (model_ema) or a prefix of names
    (student); None: those that fit."""
    normalise: Normalise | None = None
    """Normalisation of its images, if it differs from the student's; None: that of the student's dataset
    (for a teacher that is trained here: of its own dataset's options)."""
    at_chance: Literal["stop", "go_on"] = "stop"
    """What happens before step 1 if the teacher is no better than chance on validation; a teacher that is
    wrong on purpose (``initial``, ``labels: permuted``) is never stopped."""
    dataset: dict[str, Any] = Field(default_factory=dict)
    """Options that differ from the student's dataset; by default the teacher sees every label."""
    views: ViewField = Field(default_factory=lambda: parse_component(VIEWS, "none"))
    paths: tuple[Path, ...] = ()
    """A teacher assistant: the paths along which this teacher learns from other teachers of the file. Each
    path names its ``teacher``, unless there is only one other."""
    targets: TargetsField = Field(default_factory=Targets)
    """Where the targets of its own paths come from."""
    aggregation: AggregatorField = Field(default_factory=lambda: parse_component(AGGREGATORS, "fixed"))
    """How the losses of its own paths become one update."""
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    training: Training = Field(default_factory=Training)
    seed: int = 0

    @model_validator(mode="after")
    def _weights_fit_the_rest(self) -> Teacher:
        if self.weights_key is not None and self.weights in (None, INITIAL):
            raise ValueError("weights_key: it needs 'weights' to name a file")
        if self.paths and self.weights is not None:
            raise ValueError(
                f"paths: expected none beside weights ('{self.weights}'), with which the teacher is not "
                "trained; leave one of them out"
            )
        return self

    @property
    def trained_here(self) -> bool:
        """Whether a run of its own trains it: it is neither loaded nor handed over."""
        return self.weights is None and not isinstance(self.model, OwnOptions)

    @property
    def on_purpose(self) -> bool:
        """Whether the teacher is wrong on purpose, and may teach though it is no better than chance."""
        permuted = self.weights is None and self.training.labels == "permuted"
        return self.at_chance == "go_on" or self.weights == INITIAL or permuted


def teacher_of(path: Any, teachers: Collection[str], where: str) -> str:
    """The name of the teacher that ``path`` learns from.

    Args:
        teachers: names of those that it can learn from.

    Raises:
        ValueError: there is no teacher or no such teacher, or there are several and the path names none.
    """
    if path.teacher is not None:
        if path.teacher not in teachers:
            raise ValueError(str(unknown("teacher", path.teacher, teachers, f"{where}.teacher")).rstrip("."))
        return str(path.teacher)
    if len(teachers) != 1:
        need = f"to name its teacher, one of {', '.join(teachers)}" if teachers else "a 'teacher' section"
        raise ValueError(f"{where} ({path.component_name}): the path needs {need}")
    return next(iter(teachers))


def require_paths(paths: Sequence[Any], targets: Targets, teachers: Collection[str], where: str = "") -> None:
    """Whether each path has a teacher and a label of its own, and ``targets`` names no other label.

    Args:
        teachers: names of those that the paths can learn from.
        where: what stands before the keys ``paths`` and ``targets``.

    Raises:
        ValueError: says which is wrong.
    """
    labels: list[str] = []
    for index, path in enumerate(paths):
        place = f"{where}paths.{index}"
        teacher_of(path, teachers, place)
        label = path.label or path.component_name
        if label in labels:
            raise ValueError(f"{place}: two paths are called '{label}'; give one a 'label'")
        require_name(label if path.label is None else path.label, f"{place}.label: a path", "/,")
        labels.append(label)
    for label in targets.precisions:
        if label not in labels:
            raise ValueError(str(unknown("path", label, labels, f"{where}targets.precisions")).rstrip("."))


def learns_from(teachers: Mapping[str, Teacher], name: str) -> list[str]:
    """Names of the teachers that the paths of teacher ``name`` learn from, in the file's order.

    Raises:
        ValueError: as ``teacher_of``; a teacher that would learn from itself.
    """
    others, found = [other for other in teachers if other != name], set()
    for index, path in enumerate(teachers[name].paths):
        where = f"teachers.{name}.paths.{index}"
        if path.teacher == name:
            raise ValueError(f"{where}.teacher: expected another teacher than '{name}' itself")
        if not others:
            raise ValueError(
                f"{where} ({path.component_name}): the path needs another teacher; expected two or more in "
                f"'teachers', got '{name}' alone"
            )
        found.add(teacher_of(path, others, where))
    return [other for other in others if other in found]


def in_order(teachers: Mapping[str, Teacher]) -> list[str]:
    """The names of teachers, each after those that it learns from.

    Raises:
        ValueError: as ``learns_from``; some teachers learn from each other in a circle.
    """
    graph = {name: learns_from(teachers, name) for name in teachers}
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        *circle, _ = reversed(error.args[1])  # each learns from the next one, the last from the first
        pairs = zip(circle, [*circle[1:], circle[0]], strict=True)
        steps = " and ".join(f"'{one}' learns from '{other}'" for one, other in pairs)
        raise ValueError(
            f"teachers: {steps}: a circle, in which none could train first; take its paths from one of them"
        ) from None

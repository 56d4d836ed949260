"""RunSpec: the complete description of one training run. docs/reference.md shows a file with every key."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ray_kd.config.beside import Folder, import_code, run_of
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.files import identity_of, known_weights, require_whole_record
from ray_kd.config.names import require_name
from ray_kd.config.options import (
    AggregatorField,
    DatasetField,
    ModelField,
    Options,
    OwnOptions,
    Path,
    Strict,
    TaskField,
    ViewField,
    parse_component,
)
from ray_kd.config.registry import AGGREGATORS, DATASETS, MODELS, TASKS, VIEWS
from ray_kd.config.targets import Targets, TargetsField
from ray_kd.config.tracking import Tracking
from ray_kd.config.training import Count, NotNegative, Optimizer, Positive, Schedule, Training
from ray_kd.config.validation import validate
from ray_kd.config.yamlio import dump_yaml, read_yaml

INITIAL = "initial"
"""The value of ``weights`` of an untrained teacher."""
OWN = "own"
"""The model, or the dataset, that no spec names: an object that ``distill`` is handed."""


class Checkpoints(Strict):
    """How often the state to resume from is saved."""

    every_epochs: Count | None = 10
    """Epochs between two saved states; null: no state is saved at the end of an epoch."""
    every_steps: Count | None = None
    """Optimizer steps between two saved states, for long epochs."""


class Resources(Strict):
    """The resources of a run; they change no number beyond float order."""

    workers: Count = 1
    cpus: Positive = 1.0
    """CPUs reserved for each worker."""
    gpus: NotNegative = 0.0
    """GPUs reserved for each worker; may be a fraction."""
    loaders: Annotated[int, Field(ge=0)] | None = None
    """Processes of each worker that read files and make views; datasets in memory need none. None: as many
    as ``cpus`` (at most 8) with a GPU, else 0: the worker reads in its own process."""


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
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    training: Training = Field(default_factory=Training)
    seed: int = 0

    @model_validator(mode="after")
    def _key_needs_a_file(self) -> Teacher:
        if self.weights_key is not None and self.weights in (None, INITIAL):
            raise ValueError("weights_key: it needs 'weights' to name a file")
        return self

    @property
    def on_purpose(self) -> bool:
        """Whether the teacher is wrong on purpose, and may teach though it is no better than chance."""
        permuted = self.weights is None and self.training.labels == "permuted"
        return self.at_chance == "go_on" or self.weights == INITIAL or permuted


class RunSpec(Strict):
    """One run: a student that is trained on a task, with paths from teachers and an aggregator."""

    name: str = "run"
    task: TaskField = Field(default_factory=lambda: parse_component(TASKS, "classification"))
    dataset: DatasetField = Field(default_factory=lambda: parse_component(DATASETS, OWN))
    """Left out: sets of your own, ``distill(train=..., validation=..., test=...)``."""
    views: ViewField = Field(default_factory=lambda: parse_component(VIEWS, "none"))
    student: ModelField = Field(default_factory=lambda: parse_component(MODELS, OWN))
    """Left out: a module of your own, ``distill(student=...)``."""
    teachers: dict[str, Teacher] = Field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    targets: TargetsField = Field(default_factory=Targets)
    aggregation: AggregatorField = Field(default_factory=lambda: parse_component(AGGREGATORS, "fixed"))
    optimizer: Optimizer = Field(default_factory=Optimizer)
    schedule: Schedule = Field(default_factory=Schedule)
    training: Training = Field(default_factory=Training)
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, data order, adapters and the aggregator's draws; a sweep sets it."""
    plugins: tuple[str, ...] = ()
    """Modules of your own to import first; they register paths, aggregators, models, ..."""
    code: tuple[Folder, ...] = ()
    """Folders that Python looks in last for modules of plug-ins and factories; the folder of the file that
    names a module is among them where the module lies there."""
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    resources: Resources = Field(default_factory=Resources)
    tracking: Tracking = Field(default_factory=Tracking)
    storage: str = "results"
    """Where records, weights and tables are written: a local or shared path, or a URI (s3://bucket/folder)."""

    @model_validator(mode="before")
    @classmethod
    def _one_teacher(cls, data: Any) -> Any:
        """``teacher: {...}`` is short for ``teachers: {teacher: {...}}``."""
        if isinstance(data, dict) and "teacher" in data:
            if "teachers" in data:
                raise ValueError("expected 'teacher' (one) or 'teachers' (several by name), not both")
            data = dict(data)
            teacher = data.pop("teacher")
            data["teachers"] = {} if teacher is None else {"teacher": teacher}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        labels: list[str] = []
        for index, path in enumerate(self.paths):
            self.teacher_of(path, f"paths.{index}")
            label = path.label or path.component_name
            if label in labels:
                raise ValueError(f"paths.{index}: two paths are called '{label}'; give one a 'label'")
            require_name(label if path.label is None else path.label, f"paths.{index}.label: a path", "/,")
            labels.append(label)
        for label in self.targets.precisions:
            if label not in labels:
                raise ValueError(str(unknown("path", label, labels, "targets.precisions")).rstrip("."))
        size, workers, parts = self.training.batch_size, self.resources.workers, self.training.accumulate
        if size % (workers * parts):
            among = f"{workers} workers (resources.workers)" + (
                f" in {parts} parts each (training.accumulate)" if parts > 1 else ""
            )
            raise ValueError(f"training.batch_size: {size} samples cannot be divided equally among {among}")
        return self

    def teacher_of(self, path: Any, where: str = "paths") -> str:
        """The name of the teacher that ``path`` learns from.

        Raises:
            ValueError: the run has no teacher or no such teacher, or it has several and the path names none.
        """
        known = ", ".join(self.teachers) or "none"
        if path.teacher is not None:
            if path.teacher not in self.teachers:
                raise ValueError(f"{where}.teacher: unknown teacher '{path.teacher}'. Known: {known}")
            return str(path.teacher)
        if len(self.teachers) != 1:
            need = "a 'teacher' section" if not self.teachers else f"to name its teacher, one of {known}"
            raise ValueError(f"{where} ({path.component_name}): the path needs {need}")
        return next(iter(self.teachers))

    def active_paths(self) -> list[Any]:
        """The paths whose static weight is not 0; the others are not computed at all."""
        return [path for path in self.paths if path.weight != 0]

    def distinct_views(self) -> int:
        """How many different views of a sample the run shows."""
        count: int | None = self.views.count
        epochs = self.training.epochs
        return 1 if self.views.component_name == "none" else min(count or epochs, epochs)

    def needed_teachers(self) -> list[str]:
        """Names of the teachers of active paths, and of the first, against which agreement is measured."""
        used = {self.teacher_of(path) for path in self.active_paths()}
        return [name for place, name in enumerate(self.teachers) if place == 0 or name in used]

    def teacher_run(self, name: str) -> RunSpec:
        """The run that trains teacher ``name``: that model as the student, without paths."""
        teacher = self.teachers[name]
        if not isinstance(self.dataset, OwnOptions):
            options = getattr(self.dataset, "teacher_options", dict[str, Any])()
            full = {**self.dataset.full(), **options, **teacher.dataset}
        elif "name" in teacher.dataset:
            full = teacher.dataset
        else:
            raise UserError(
                f"teachers.{name}: it would be trained on the run's dataset, which the spec does not name; "
                f"expected a 'name' in teachers.{name}.dataset, 'weights', or a trained teacher of your own: "
                "distill(spec, teacher=...)."
            )
        return RunSpec.model_validate(
            {
                "name": f"{self.name}-{name}",
                "task": {**self.task.full(), **getattr(self.task, "teacher_options", dict)()},
                "dataset": full,
                "views": teacher.views,
                "student": teacher.model,
                "optimizer": teacher.optimizer,
                "schedule": teacher.schedule,
                "training": teacher.training,
                "seed": teacher.seed,
                "plugins": self.plugins,
                "code": self.code,
                "checkpoints": self.checkpoints,
                "resources": self.resources.model_copy(update={"workers": 1}),
                "storage": self.storage,
            }
        )

    def own_parts(self) -> dict[str, tuple[OwnOptions, str]]:
        """What the spec does not name, by its key: what a record says of it, and the arguments of ``distill``
        that hand it over."""
        sets = "train=..., validation=..., test=..."
        parts = {"dataset": (self.dataset, sets), "student": (self.student, "student=...")}
        parts |= {f"teachers.{name}.model": (t.model, "teacher=...") for name, t in self.teachers.items()}
        return {key: (o, how) for key, (o, how) in parts.items() if isinstance(o, OwnOptions)}

    def require_named(self, given: Container[str] = ()) -> None:
        """Refuse a run with parts that the spec does not name.

        Args:
            given: keys of the parts that are handed over as objects.

        Raises:
            UserError: names them, and how they are named or handed over.
        """
        missing = {key: found for key, found in self.own_parts().items() if key not in given}
        lost = [
            f"{key} ({options.described()})" for key, (options, _) in missing.items() if options.described()
        ]
        call = f"distill(spec, {', '.join(dict.fromkeys(how for _, how in missing.values()))})"
        if lost:
            raise UserError(
                f"run '{self.name}' was made of objects of your own, which no file can build anew: "
                f"{', '.join(lost)}. In Python {call} is handed them."
            )
        if missing:
            names = [f"'{key}' ('ray-kd list {_list_of(key)}' shows them)" for key in missing]
            raise UserError(
                f"run '{self.name}': it names no {', no '.join(names)}. Objects of your own are handed over "
                f"in Python: {call}."
            )

    def identity(self) -> str:
        """16 hexadecimal digits that depend on every setting that changes the result, and on no other."""
        return identity_of(self.essence())

    def essence(self) -> dict[str, Any]:
        """What the identity hashes. Defaults are left out, so that a new option changes no identity."""
        essence: dict[str, Any] = {}
        for key in ("task", "dataset", "views", "student", "aggregation"):
            options: Options = getattr(self, key)
            essence[key] = options.essence()
        active = self.active_paths()
        if not active:
            del essence["aggregation"]
        essence["paths"] = [path.essence() for path in active]
        essence["teachers"] = {name: self._teacher_essence(name) for name in self.needed_teachers()}
        for key in ("optimizer", "schedule", "training"):
            essence[key] = getattr(self, key).model_dump(mode="json", exclude_defaults=True)
        if self.targets.source == "stored" and active:
            essence["targets"] = self.targets.essence()
        if not self.training.sync_batchnorm:
            essence["workers"] = self.resources.workers
        essence["seed"] = self.seed
        return essence

    def _teacher_essence(self, name: str) -> dict[str, Any]:
        teacher = self.teachers[name]
        if isinstance(teacher.model, OwnOptions):
            essence: dict[str, Any] = {"model": teacher.model.essence()}
        elif teacher.weights is None:
            essence = self.teacher_run(name).essence()
        elif teacher.weights == INITIAL:
            essence = {"model": teacher.model.essence(), "weights": INITIAL, "seed": teacher.seed}
        else:
            known = known_weights(teacher.weights, f"teachers.{name}.weights")
            essence = {"model": teacher.model.essence(), "weights": known}
            if teacher.weights_key is not None:
                essence["weights_key"] = teacher.weights_key
        if teacher.normalise is not None:
            essence["normalise"] = teacher.normalise.model_dump(mode="json")
        return essence

    @classmethod
    def load(cls, file: str | FilePath, *overrides: str) -> RunSpec:
        """Read a run file and apply ``key=value`` overrides.

        ``config.beside`` says where relative dataset roots, weights and modules of one's own are looked for.

        Raises:
            UserError: the file cannot be read, a key or name is unknown, or a value has the wrong type.
        """
        data = read_yaml(file)
        require_whole_record(FilePath(file), data)
        return cls.parse(run_of(data, file, overrides), where=str(file))

    @classmethod
    def parse(cls, data: dict[str, Any], where: str = "run") -> RunSpec:
        """Validate a mapping, after importing its plug-ins.

        Raises:
            UserError: as ``load``.

        Example:
            >>> spec = RunSpec.parse({"dataset": "digits", "student": "digits_cnn", "seed": 2})
            >>> spec.seed, spec.optimizer.name
            (2, 'sgd')
        """
        import_code(data)
        return validate(cls, data, where)

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec, every default written out."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved spec as YAML; ``load`` reads it back to an equal spec."""
        return dump_yaml(self.to_dict())


def _list_of(key: str) -> str:
    return "datasets" if key == "dataset" else "models"

"""RunSpec: the complete description of one training run. docs/reference.md shows a file with every key."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import Field, model_validator

from ray_kd.config.beside import Folder, import_code, run_of
from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL, identity_of, known_weights, require_whole_record
from ray_kd.config.object_uri import ObjectURI
from ray_kd.config.options import (
    OWN,
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
from ray_kd.config.teacher import Teacher, in_order, learns_from, require_paths, teacher_of
from ray_kd.config.tracking import Tracking
from ray_kd.config.training import Count, NotNegative, Optimizer, Positive, Schedule, Training
from ray_kd.config.validation import validate
from ray_kd.config.yamlio import dump_yaml, read_yaml


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
        for key, place in (("storage", self.storage), ("targets.cache", self.targets.cache)):
            ObjectURI.parse(place or "", key)
        require_paths(self.paths, self.targets, self.teachers)
        in_order(self.teachers)
        for name, teacher in self.teachers.items():
            others = [other for other in self.teachers if other != name]
            require_paths(teacher.paths, teacher.targets, others, f"teachers.{name}.")
        size, workers, parts = self.training.batch_size, self.resources.workers, self.training.accumulate
        if size % (workers * parts):
            among = f"{workers} workers (resources.workers)" + (
                f" in {parts} parts each (training.accumulate)" if parts > 1 else ""
            )
            raise ValueError(f"training.batch_size: {size} samples cannot be divided equally among {among}")
        return self

    def teacher_of(self, path: Any) -> str:
        """The name of the teacher that ``path``, one of the run's, learns from."""
        return teacher_of(path, self.teachers, "paths")

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

    def all_teachers(self) -> list[str]:
        """Names of the needed teachers and of those that train them in turn, each after its own."""
        names = self.needed_teachers()
        for name in names:  # grows as it is walked
            if self.teachers[name].trained_here:
                names += [one for one in self.teacher_run(name).needed_teachers() if one not in names]
        return [name for name in in_order(self.teachers) if name in names]

    def teacher_runs(self) -> dict[str, RunSpec]:
        """The runs that train ``all_teachers``, in that order; one that is loaded or handed over has none.

        Raises:
            UserError: as ``teacher_run``.
        """
        names = [name for name in self.all_teachers() if self.teachers[name].trained_here]
        return {name: self.teacher_run(name) for name in names}

    def teacher_run(self, name: str) -> RunSpec:
        """The run that trains teacher ``name``: that model as the student, along the paths of its own.

        Raises:
            UserError: the teacher's settings make no run.
        """
        teacher = self.teachers[name]
        run = {
            "name": f"{self.name}-{name}",
            "task": {**self.task.full(), **getattr(self.task, "teacher_options", dict)()},
            "dataset": self._teacher_dataset(name),
            "views": teacher.views,
            "student": teacher.model,
            "teachers": self._teachers_of(name),
            "paths": teacher.paths,
            "targets": teacher.targets,
            "aggregation": teacher.aggregation,
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
        return validate(RunSpec, run, f"teachers.{name}")

    def _teacher_dataset(self, name: str) -> dict[str, Any]:
        teacher = self.teachers[name]
        if not isinstance(self.dataset, OwnOptions):
            options = getattr(self.dataset, "teacher_options", dict[str, Any])()
            return {**self.dataset.full(), **options, **teacher.dataset}
        if "name" in teacher.dataset:
            return teacher.dataset
        raise UserError(
            f"teachers.{name}: it would be trained on the run's dataset, which the spec does not name; "
            f"expected a 'name' in teachers.{name}.dataset, 'weights', or a trained teacher of your own: "
            "distill(spec, teacher=...)."
        )

    def _teachers_of(self, name: str) -> dict[str, Teacher]:
        """The teachers that teacher ``name`` learns from, then those that these learn from in turn.

        Their datasets are written out, so that they are the same runs for ``name`` as for the student.
        """
        names = learns_from(self.teachers, name)
        for other in names:  # grows as it is walked
            names += [one for one in learns_from(self.teachers, other) if one not in names]
        return {
            other: self.teachers[other].model_copy(update={"dataset": self._teacher_dataset(other)})
            for other in names
        }

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
        lost = [f"{key} ({words})" for key, (options, _) in missing.items() if (words := options.described())]
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

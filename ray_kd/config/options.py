"""The strict base class of all sections of a spec, and the fields that name a registered component."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ray_kd.config.files import known_weights
from ray_kd.config.registry import AGGREGATORS, DATASETS, MODELS, PATHS, TASKS, VIEWS, Registry
from ray_kd.config.validation import is_number, kinds_in, refuse_guesses, validate


class Strict(BaseModel):
    """A typed section of a spec: unknown keys are errors, and values cannot change after validation.

    Values are not converted: a number must be a number, and a flag must be true or false.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_guessed(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields.get(info.field_name or "")
        if field is not None:
            refuse_guesses(value, kinds_in(field.annotation))
        return value


class Options(Strict):
    """Options of a registered component; registration sets its name and version."""

    component_name: ClassVar[str]
    component_version: ClassVar[int]
    places: ClassVar[tuple[str, ...]] = ()
    """Options that only say where files lie; the identity leaves them out."""

    def full(self) -> dict[str, Any]:
        """All options with their values, the component's name first."""
        return {"name": self.component_name, **self.model_dump(mode="json")}

    def essence(self) -> dict[str, Any]:
        """What the identity hashes: name, version, and the options that differ from their defaults."""
        changed = self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.places))
        return {"name": self.component_name, "version": self.component_version, **changed}


OWN = "own"
"""The model, or the dataset, that no spec names: an object that ``distill`` is handed."""


class OwnOptions(Options):
    """Options of a part that no file names, since it is an object that ``distill`` is handed.

    In a record they describe the object; nothing can be built of them.
    """

    def essence(self) -> dict[str, Any]:
        """The description is left out: the run's folder, or its key, tells one object from another."""
        return {"name": self.component_name, "version": self.component_version}

    @abstractmethod
    def described(self) -> str:
        """The object in a few words; empty where no record describes it."""


class PathOptions(Options):
    """Options of every path; a path's own ``Options`` adds to them."""

    weight: Annotated[float | Literal["published"], BeforeValidator(lambda value: _weight(value))] = 1.0
    """Static weight w of the path's loss, >= 0; 0 skips the path; ``published``: its source's value."""
    label: str | None = None
    """What the path is called in records; default: its registered name."""
    teacher: str | None = None
    """The teacher it learns from; default: the only one."""
    stages: tuple[int, ...] | None = None
    """The stages it attaches to, counted from 0; default: those of its source."""
    corrupt: Literal["shuffle", "shuffle_fixed", "noise"] | None = None
    """Corrupt its target on purpose: another sample's (redrawn each step, or fixed), or noise. For a teacher
    that is untrained, or trained on wrong labels, declare another one with ``weights: initial`` or
    ``training.labels: permuted``."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs over which the path's loss rises linearly to its full size."""


class ModelOptions(Options):
    """Options of every model; a model's own ``Options`` adds to them."""

    weights: str | None = None
    """Initial weights: a file (.safetensors, .pt, .pth), a name that torchvision publishes for the model
    (IMAGENET1K_V2), or None: drawn from the run's seed."""
    weights_key: str | None = None
    """Which weights of the file to load, if it holds several: a key (model_ema) or a prefix of names
    (student); None: those that fit."""
    head: Literal["kept", "fresh"] = "kept"
    """With ``weights``: fresh draws the last layer from the seed, for classes other than the weights'."""
    files: ClassVar[tuple[str, ...]] = ("weights",)
    """Options that name a file (or published weights); the identity hashes the file's content."""

    @model_validator(mode="after")
    def _key_needs_a_file(self) -> ModelOptions:
        if self.weights_key is not None and not any(getattr(self, name) for name in self.files):
            raise ValueError(f"weights_key: it needs {' or '.join(self.files)} to name a file")
        return self

    def essence(self) -> dict[str, Any]:
        found = super().essence()
        for name in self.files:
            if found.get(name) is not None:
                found[name] = known_weights(found[name], f"model '{self.component_name}', {name}")
        return found


class AggregatorOptions(Options):
    """Options of every aggregator; an aggregator's own ``Options`` adds to them."""

    granularity: Literal["path", "layer"] = "path"
    """One weight for each path, or one for each (path, stage)."""
    k: Annotated[float, Field(ge=0)] = 1.0
    """Total strength of distillation beside the task loss."""


class ViewOptions(Options):
    """Options of every view policy."""

    seed: int = 0
    """Seed of the views; a sweep redraws it where its ``vary`` lists views."""
    count: int | None = None
    """How many distinct views a sample has (epoch e uses view e mod count); None: one for each epoch."""


def _weight(value: Any) -> float | str:
    if value == "published":
        return "published"
    if isinstance(value, str) and is_number(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("expected a number >= 0 or 'published'")
    if not 0 <= value < float("inf"):
        raise ValueError("expected a finite number >= 0 or 'published'")
    return float(value)


def parse_component(registry: Registry, value: Any) -> Any:
    """The component's own Options from ``"name"``, ``{"name": ..., option: ...}`` or Options.

    Raises:
        ValueError: ``value`` has none of these forms (pydantic adds the key to the error).
        UserError: the name is not registered, or an option is unknown or has the wrong type.
    """
    if isinstance(value, Options):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        article = "an" if registry.kind[0] == "a" else "a"
        raise ValueError(f"expected the name of {article} {registry.kind}, or a mapping with a 'name'")
    rest = {key: entry for key, entry in value.items() if key != "name"}
    cls = registry.get(value["name"])
    return validate(cls.Options, rest, f"{registry.kind} '{cls.name}'")


def component(registry: Registry) -> Any:
    """Annotations for a pydantic field that holds the Options of a component of ``registry``."""
    return (
        BeforeValidator(lambda value: parse_component(registry, value)),
        PlainSerializer(lambda options: options.full()),
    )


Path = Annotated[PathOptions, *component(PATHS)]
AggregatorField = Annotated[AggregatorOptions, *component(AGGREGATORS)]
TaskField = Annotated[Options, *component(TASKS)]
DatasetField = Annotated[Options, *component(DATASETS)]
ViewField = Annotated[ViewOptions, *component(VIEWS)]
ModelField = Annotated[Options, *component(MODELS)]

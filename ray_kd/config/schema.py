"""JSON schemas of run and sweep files, so that editors complete and check them.

In a YAML file, editors with a YAML language server read the schema that its first line names::

    # yaml-language-server: $schema=run.schema.json
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic import BaseModel

from ray_kd.config.errors import unknown
from ray_kd.config.options import AggregatorOptions, Options, PathOptions, Strict, ViewOptions
from ray_kd.config.registry import REGISTRIES, Registry
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec

Schema = dict[str, Any]

_COMPONENTS = {
    ("RunSpec", "task"): "task",
    ("RunSpec", "dataset"): "dataset",
    ("RunSpec", "views"): "view",
    ("RunSpec", "student"): "model",
    ("RunSpec", "aggregation"): "aggregator",
    ("Teacher", "model"): "model",
    ("Teacher", "views"): "view",
    ("Teacher", "aggregation"): "aggregator",
}
"""Fields that hold a registered component, with its kind; ``paths`` is a list of components."""

_BASES = (Options, PathOptions, AggregatorOptions, ViewOptions)


def json_schema(kind: str) -> Schema:
    """The JSON schema (draft 2020-12) of a file, with all components that are registered now.

    Args:
        kind: ``run`` or ``sweep``.
    """
    if kind == "run":
        schema = _run_schema()
    elif kind == "sweep":
        schema = _sweep_schema()
    else:
        raise unknown("schema", kind, ("run", "sweep"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"ray-kd {kind}", **schema}


def _run_schema() -> Schema:
    schema = _described(RunSpec)
    definitions: Schema = schema["$defs"]
    for registry in REGISTRIES.values():
        definitions[registry.kind] = _component(registry, definitions)
    for (model, field), kind in _COMPONENTS.items():
        owner = schema if model == "RunSpec" else definitions[model]
        owner["properties"][field] = _field(owner["properties"][field], kind)
    properties = schema["properties"]
    for fields in (properties, definitions["Teacher"]["properties"]):
        fields["paths"] = {**fields["paths"], "items": {"$ref": "#/$defs/path"}}
        _allow(fields, "targets", {"enum": ["live", "stored"]})
    properties["teacher"] = {
        "description": "The only teacher; short for 'teachers' with one entry.",
        "anyOf": [{"$ref": "#/$defs/Teacher"}, {"type": "null"}],
    }
    for base in _BASES:
        definitions.pop(base.__name__, None)
    return schema


def _sweep_schema() -> Schema:
    schema, run = _described(SweepSpec), _run_schema()
    definitions: Schema = schema["$defs"]
    definitions.update(run.pop("$defs"))
    definitions["run"] = run
    definitions["Space"] = {"anyOf": [{"type": "array", "minItems": 1}, definitions["Space"]]}
    properties = schema["properties"]
    properties["base"] = {**properties["base"], "anyOf": [{"type": "string"}, {"$ref": "#/$defs/run"}]}
    del properties["base"]["type"], properties["base"]["additionalProperties"]
    _allow(properties, "metric", {"type": "string"})
    _allow(properties, "search", {"$ref": "#/$defs/Search"}, {"type": "null"})
    _allow(properties, "scheduler", {"enum": ["none", "asha", "median", None]})
    return schema


def _allow(properties: Schema, field: str, *others: Schema) -> None:
    """Let a field also accept its short forms."""
    own = properties[field]
    kept = {key: own.pop(key) for key in ("description", "default", "title") if key in own}
    properties[field] = {**kept, "anyOf": [own, *others]}


def _field(schema: Schema, kind: str) -> Schema:
    kept = {key: schema[key] for key in ("description",) if key in schema}
    return {**kept, "$ref": f"#/$defs/{kind}"}


def _component(registry: Registry, definitions: Schema) -> Schema:
    """A registered component: its name, or a mapping of its name and its options."""
    forms: list[Schema] = []
    for name in registry.names():
        cls = registry.get(name)
        options = _described(cls.Options)
        definitions.update(options.pop("$defs", {}))
        forms.append(
            {
                "type": "object",
                "title": name,
                "description": (inspect.getdoc(cls) or "").split("\n\n")[0],
                "properties": {"name": {"const": name}, **options.get("properties", {})},
                "required": ["name", *options.get("required", [])],
                "additionalProperties": False,
            }
        )
    return {"anyOf": [{"enum": registry.names()}, *forms]}


def _described(model: type[BaseModel]) -> Schema:
    """A pydantic model's schema, with the docstrings below its fields as descriptions."""
    schema = model.model_json_schema()
    _describe(schema, model)
    for name, inner in _models(model).items():
        if name in schema.get("$defs", {}):
            _describe(schema["$defs"][name], inner)
    return schema


def _models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    known = {cls.__name__: cls for cls in _subclasses(Strict)}
    return {name: cls for name, cls in known.items() if cls is not model}


def _subclasses(cls: type[BaseModel]) -> list[type[BaseModel]]:
    own: list[type[BaseModel]] = cls.__subclasses__()
    return [found for sub in own for found in (sub, *_subclasses(sub))]


def _describe(schema: Schema, model: type[BaseModel]) -> None:
    for name, text in field_docs(model).items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a class and its bases."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, Strict):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, TypeError, SyntaxError):
            continue  # a class made without a source file
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, after in itertools.pairwise(body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[field.target.id] = inspect.cleandoc(str(after.value.value))
    return docs

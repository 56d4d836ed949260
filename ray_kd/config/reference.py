"""docs/reference.md: a run file and a sweep file with every key, written from the models themselves."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import Any

from ray_kd.config.options import AggregatorOptions, PathOptions, Strict, ViewOptions
from ray_kd.config.schema import Schema, field_docs
from ray_kd.config.seeds import SeedLooks
from ray_kd.config.space import Space
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import Scheduler, Search, SweepSpec
from ray_kd.config.teacher import Teacher

WIDTH = 100
_HEAD = """# Reference: every key of a run file and of a sweep file

Written by `ray-kd list reference` from the models that validate the files; a test keeps it true. Each key
stands here with its default; keys that have none stand with an example, marked so. An unknown key fails,
and the nearest valid one is named. On the command line a key is a dotted path: `optimizer.lr=0.05`,
`paths.0.weight=2`, `teacher.training.epochs=60`, and for a sweep `seeds=[0,1]`, `base.training.epochs=40`.

Files and overrides are read by YAML 1.2's core schema: `yes`, `no`, `on`, `off`, `1:30` and a date are text,
`0o10` is octal, `1e3` a number. A number with leading zeros (`010`) is refused, for some read it as octal; so
is whatever is not written as what a key wants (`lr: true`, `nesterov: yes`), and a key that stands twice.

For completion in an editor, write the JSON schemas once (`ray-kd list run --schema > run.schema.json`,
`ray-kd list sweep --schema > sweep.schema.json`) and begin a file with
`# yaml-language-server: $schema=run.schema.json`.
"""
_RUN = """## A run file

`task`, `dataset`, `views`, `student`, `model`, `aggregation` and each of `paths` name a registered
component: its name alone, or a mapping of its name and its options. `ray-kd list KIND` says which there
are (`paths`, `aggregators`, `models`, `datasets`, `views`, `tasks`), `ray-kd list KIND NAME` explains one
with the options of its own, which come on top of those below.
"""
_SWEEP = """## A sweep file

[Sweeps](sweeps.md) explains what each part is for. `scheduler: none` is the default, and so is no `search`;
both are written out here to show their keys. A list of searches is allowed, each for other `cells`.
"""
_TAIL = """The identity of a run is a hash of what changes its result: everything above except `name`,
`plugins`, `code`, `checkpoints`, `resources` (unless `sync_batchnorm` is off), `tracking` and `storage`.
Values equal to their defaults are left out of it.
"""

Examples = dict[str, Any]
_BASES: dict[tuple[str, str], tuple[type[Strict], str]] = {
    ("RunSpec", "views"): (ViewOptions, "none"),
    ("RunSpec", "aggregation"): (AggregatorOptions, "fixed"),
    ("Teacher", "views"): (ViewOptions, "none"),
}
"""Components whose common options are worth showing, with the default component."""
_KINDS = {
    "RunSpec.task": "ray-kd list tasks",
    "RunSpec.dataset": "ray-kd list datasets",
    "RunSpec.student": "ray-kd list models",
    "Teacher.model": "ray-kd list models",
    "Teacher.dataset": "a mapping",
    "Teacher.paths": "a list, each as in the run's own paths below",
    "Teacher.targets": "live | stored, or a mapping as in the run's own below",
    "Teacher.aggregation": "ray-kd list aggregators",
    "SweepSpec.base": "text or a mapping",
    "SweepSpec.seeds": "a list, or a mapping with looks",
}
"""What may stand at keys where the models alone say too little."""
_DEFAULTS = {
    "RunSpec.task": "classification",
    "Teacher.targets": "live",
    "Teacher.aggregation": "fixed",
}
"""Defaults by name: of sections that are shown elsewhere, and of components, for asking the model for these
would import PyTorch."""
_EXAMPLES: Examples = {
    "RunSpec.dataset": "digits",
    "RunSpec.student": "digits_cnn",
    "Teacher.model": "digits_cnn",
    "SweepSpec.name": "comparison",
    "SweepSpec.base": "run.yaml",
    "SweepSpec.cells": {"student alone": {"paths": []}, "logits": {"paths": ["logits"]}},
    "SweepSpec.baseline": "student alone",
    "SweepSpec.axes": {"optimizer.lr": [0.05, 0.1]},
    "SweepSpec.controls": {"student alone, 2x epochs": {"paths": [], "training.epochs": 40}},
    "Search.trials": 20,
    "Search.space": {"optimizer.lr": {"log_uniform": [0.01, 1.0]}, "aggregation.k": [0.5, 1, 2]},
    "Search.cells": ["logits"],
    "Scheduler.name": "asha",
}
"""Values that are no defaults: of keys that have none, and of those that show little when empty."""


def reference() -> str:
    """The page as Markdown."""
    parts = [
        _HEAD,
        _RUN,
        _block(file_lines("run")),
        _TAIL.lstrip(),
        _SWEEP,
        _block(file_lines("sweep")),
        _keys("seeds", SeedLooks),
        _keys("search.space", Space),
    ]
    return "\n".join(parts)


def file_lines(kind: str) -> list[str]:
    """A ``run`` or ``sweep`` file with every key, line by line; no component is imported for it."""
    models: dict[str, type[Strict]] = {"run": RunSpec, "sweep": SweepSpec}
    return _section(models[kind], 0)


def _keys(key: str, model: type[Strict]) -> str:
    """The keys of a mapping that the file shows in another form."""
    lines = [f"- `{name}`: {' '.join(text.split())}" for name, text in field_docs(model).items()]
    about = " ".join((inspect.getdoc(model) or "").replace("``", "`").split())
    return "\n".join([f"### `{key}`", "", about, "", *lines, ""])


def _block(lines: list[str]) -> str:
    return "\n".join(["```yaml", *lines, "```", ""])


def _section(model: type[Strict], indent: int) -> list[str]:
    """Every key of a model: its meaning above it, its default, and what it may be."""
    docs, properties = field_docs(model), model.model_json_schema()
    lines: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{model.__name__}.{name}"
        lines += _comment(docs.get(name, ""), indent)
        nested = _nested(model, name, field.annotation)
        if nested is not None:
            lines += _sub(name, *nested, indent)
            continue
        example = key in _EXAMPLES
        value = {**_DEFAULTS, **_EXAMPLES}.get(key)
        if value is None:
            value = field.get_default(call_default_factory=True)
        kind = _KINDS.get(key) or kind_in_words(properties["properties"][name], properties.get("$defs", {}))
        note = f"{kind}; {'required, ' if field.is_required() else ''}an example" if example else kind
        lines += _entry(name, value, note, indent)
    return lines


def _nested(model: type[Strict], name: str, annotation: Any) -> tuple[str, type[Strict], str] | None:
    """How a key that holds a mapping is opened: (mark, model, name of the component)."""
    key = (model.__name__, name)
    special: dict[tuple[str, str], tuple[str, type[Strict], str]] = {
        ("RunSpec", "teachers"): ("teacher", Teacher, ""),
        ("RunSpec", "paths"): ("-", PathOptions, "soft_target"),
        ("SweepSpec", "search"): ("", Search, ""),
        ("SweepSpec", "scheduler"): ("", Scheduler, ""),
    }
    if key in special:
        return special[key]
    if key in _BASES:
        base, default = _BASES[key]
        return "", base, default
    section = inspect.isclass(annotation) and issubclass(annotation, Strict)
    return ("", annotation, "") if section and ".".join(key) not in _KINDS else None


def _sub(name: str, mark: str, model: type[Strict], component: str, indent: int) -> list[str]:
    about = (inspect.getdoc(model) or "").split("\n\n")[0]
    if mark == "teacher":
        about = "Teachers by name; 'teacher: {...}' is short for a single one. " + about
    if mark == "-":
        about = "A list, empty by default; what every path can be told:"
    lines = [*_comment(about, indent), f"{' ' * indent}{name}:"]
    if mark == "teacher":
        return [*lines, f"{' ' * (indent + 2)}teacher:", *_section(model, indent + 4)]
    deeper = indent + (4 if mark == "-" else 2)
    if component:
        kind = {"-": "paths", "views": "views", "aggregation": "aggregators"}[mark or name]
        lines += _entry("name", component, f"ray-kd list {kind}", deeper)
    lines += _section(model, deeper)
    if mark == "-":  # the first entry of a list has its dash where its indentation was
        at = next(i for i, line in enumerate(lines) if line.lstrip().startswith("name:"))
        lines[at] = f"{' ' * (deeper - 2)}- {lines[at].lstrip()}"
    return lines


def _entry(name: str, value: Any, note: str, indent: int) -> list[str]:
    shown = f"{' ' * indent}{name}: {_flow(value)}"
    line = f"{shown:<34}  # {note}"
    return [line] if len(line) <= WIDTH else [*_comment(note, indent), shown]


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        plain = value.replace(" ", "").replace("_", "").replace(".", "").replace("-", "")
        return value if plain.isalnum() and value != "none" else json.dumps(value)
    return json.dumps(value)


def _comment(text: str, indent: int) -> list[str]:
    mark = f"{' ' * indent}# "
    text = " ".join(text.replace("``", "").replace("None:", "null:").split())
    return textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=mark)


def kind_in_words(schema: Schema, definitions: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return " | ".join(str(choice) for choice in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_in_words(part, definitions) for part in schema["anyOf"]))
    kind = schema.get("type", "any value")
    if kind == "array":
        item = kind_in_words(schema.get("items", {}), definitions)
        return "a list" if item == "any value" else f"a list, each {item}"
    if kind in ("integer", "number"):
        bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
        limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
        return " ".join([str(kind), *limits])
    return {"string": "text", "boolean": "true | false", "object": "a mapping"}.get(kind, str(kind))

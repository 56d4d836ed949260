"""What is registered, as ``ray-kd list`` shows it.

What ray-kd has itself is read from its source, since importing it would take as long as importing PyTorch.
What plug-ins register is asked of their classes, for which they are imported.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_kd.config.registry import REGISTRIES, distribution, entry_points

PACKAGE = Path(__file__).parents[1]


@dataclass
class Option:
    """One option of a component."""

    name: str
    kind: str
    default: str
    help: str


@dataclass
class Item:
    """One registered component."""

    name: str
    source: str
    doc: str
    cost: str = "1"
    weight: str = "1"
    tasks: tuple[str, ...] = ()
    options: list[Option] = field(default_factory=list)
    origin: str = ""
    """Of a plug-in's: its module, and the installed package that it came with."""

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return self.doc.split("\n\n")[0].replace("\n", " ").strip()


def catalogue(kind: str, plugins: bool = False) -> list[Item]:
    """Every component of a kind, by name; those of plug-ins, too, if asked for."""
    others = [_described(cls) for cls in REGISTRIES[kind].from_plugins()] if plugins else []
    return sorted([*_built_in(kind), *others], key=lambda item: item.name)


def _described(cls: Any) -> Item:
    """A component as its class says."""
    from ray_kd.config.reference import kind_in_words
    from ray_kd.config.schema import field_docs

    schema, docs = cls.Options.model_json_schema(), field_docs(cls.Options)
    options = []
    for name, given in cls.Options.model_fields.items():
        kind = kind_in_words(schema["properties"][name], schema.get("$defs", {}))
        default = "required" if given.is_required() else str(given.get_default(call_default_factory=True))
        options.append(Option(name, kind, default, " ".join(docs.get(name, "").split())))
    module = cls.__module__
    came = [distribution(p) for p in entry_points() if p.module.split(".")[0] == module.split(".")[0]]
    return Item(
        name=cls.name,
        source=cls.source,
        doc=inspect.getdoc(cls) or "",
        cost=str(getattr(cls, "cost", "1")),
        weight=str(getattr(cls, "published_weight", "1")),
        tasks=tuple(getattr(cls, "tasks", ())),
        options=options,
        origin=f"{module} ({came[0]})" if came else module,
    )


def _built_in(kind: str) -> list[Item]:
    folder, registry = REGISTRIES[kind].package.rpartition(".")[2], kind.upper()
    classes: dict[str, ast.ClassDef] = {}
    for file in [*sorted((PACKAGE / folder).rglob("*.py")), PACKAGE / "config" / "options.py"]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes |= {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    items = []
    for node in classes.values():
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and ast.unparse(call.func) == f"{registry}.register":
                words = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
                items.append(
                    Item(
                        name=ast.literal_eval(call.args[0]),
                        source=words.get("source", ""),
                        doc=textwrap.dedent(ast.get_docstring(node) or ""),
                        cost=_constant(node, "cost", classes, "1"),
                        weight=_constant(node, "published_weight", classes, "1"),
                        tasks=ast.literal_eval(_constant(node, "tasks", classes, "()")),
                        options=_options(_constant(node, "Options", classes, ""), classes),
                    )
                )
    return items


def _constant(node: ast.ClassDef, name: str, classes: dict[str, ast.ClassDef], default: str) -> str:
    """A class attribute's value as written, from the class or the nearest base that has it."""
    for part in node.body:
        target: ast.expr | None = part.target if isinstance(part, ast.AnnAssign) else None
        if isinstance(part, ast.Assign):
            target = part.targets[0]
        if isinstance(target, ast.Name) and target.id == name and getattr(part, "value", None) is not None:
            value = part.value  # type: ignore[attr-defined]
            return str(ast.literal_eval(value)) if isinstance(value, ast.Constant) else ast.unparse(value)
    for base in node.bases:
        parent = classes.get(ast.unparse(base).rpartition(".")[2])
        if parent is not None:
            found = _constant(parent, name, classes, "")
            if found:
                return found
    return default


def _options(name: str, classes: dict[str, ast.ClassDef]) -> list[Option]:
    """The fields of an Options class, those of its bases first."""
    node = classes.get(name)
    if node is None:
        return []
    found = {option.name: option for base in node.bases for option in _options(ast.unparse(base), classes)}
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)):
            continue
        if "ClassVar" in ast.unparse(part.annotation):
            continue
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            doc = " ".join(str(after.value.value).split())
        kind = _readable(part.annotation)
        default = ast.unparse(part.value).strip("'") if part.value is not None else "required"
        found[part.target.id] = Option(part.target.id, kind, default, doc)
    return list(found.values())


def _readable(annotation: ast.expr) -> str:
    """An annotation without its validators."""
    if isinstance(annotation, ast.BinOp):
        return f"{_readable(annotation.left)} | {_readable(annotation.right)}"
    if isinstance(annotation, ast.Subscript):
        inner, outer = annotation.slice, ast.unparse(annotation.value)
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if outer == "Annotated":
            return _readable(parts[0])
        if outer == "Literal":
            return " | ".join(str(ast.literal_eval(part)) for part in parts)
        if outer == "tuple" and ast.unparse(parts[-1]) == "...":
            return f"list of {_readable(parts[0])}"
    return ast.unparse(annotation)

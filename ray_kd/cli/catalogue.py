"""What is registered, read from the source of the built-in modules: nothing heavy is imported."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
KINDS = {
    "paths": ("paths", "PATHS"),
    "aggregators": ("aggregation", "AGGREGATORS"),
    "models": ("models", "MODELS"),
    "datasets": ("data", "DATASETS"),
    "views": ("data", "VIEWS"),
    "tasks": ("tasks", "TASKS"),
}


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

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        return self.doc.split("\n\n")[0].replace("\n", " ").strip()


def catalogue(kind: str) -> list[Item]:
    """Every built-in component of a kind, by name."""
    folder, registry = KINDS[kind]
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
    return sorted(items, key=lambda item: item.name)


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

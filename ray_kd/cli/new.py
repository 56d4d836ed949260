"""ray-kd new."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from ray_kd.cli.catalogue import catalogue
from ray_kd.cli.common import shown
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.registry import entry_points
from ray_kd.config.screen import say

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {
    "path": {
        "suite": "PathConformance",
        "others": "soft_target: {paths: [soft_target]}",
        "use": "{paths: [$name]}",
    },
    "aggregator": {
        "suite": "AggregatorConformance",
        "others": "equal: {paths: [soft_target, logits], aggregation: equal}",
        "use": "{paths: [soft_target, logits], aggregation: $name}",
    },
}
"""What the templates are told of each kind."""


def new(
    kind: Annotated[str, typer.Argument(help="path or aggregator.")],
    name: Annotated[str, typer.Argument(help="What specs call it, and its package.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is not there.")],
) -> None:
    """Write a package of your own: a path or an aggregator that already works.

    It has a module to change, its tests, and a sweep that compares it. No file
    that is there already is changed.

    Examples:
      ray-kd new path cosine_angle kd-cosine-angle
      ray-kd new aggregator inverse_root kd-inverse-root
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, "new")
    require_free(kind, name)
    files = rendered(kind, name)
    for file in files:
        if (folder / file).exists():
            raise UserError(f"new: '{shown(folder / file)}' is there already; expected a folder without it.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"new: '{shown(folder)}' is a file; expected a folder, or a name for a new one.")
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
        say(shown(folder / file))
    say(f"\nIn {shown(folder)}, README.md says how to test it and train with it.")


def require_free(kind: str, name: str) -> None:
    """Refuse a name that Python or a spec could not use, or that means something already."""
    registered = {item.name for item in catalogue(f"{kind}s", plugins=bool(entry_points()))}

    def problem(name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
            return "expected lower-case letters, digits and _, a letter first, no word of Python's"
        if name in registered:
            return f"it is the name of another {kind}"
        return "Python imports another module by that name" if importlib.util.find_spec(name) else ""

    found = problem(name)
    if found:
        plain = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_") or kind
        plain = plain if plain[0].isalpha() else f"{kind}_{plain}"
        tries = (plain, f"{plain}_{kind}", *(f"{plain}_{number}" for number in range(2, 100)))
        nearest = next(text for text in tries if not problem(text))
        raise UserError(f"new: name '{name}': {found}. Free: '{nearest}'.")


def rendered(kind: str, name: str) -> dict[str, str]:
    """The files of the package: their contents by their place in its folder."""
    title = "".join(part.title() for part in name.split("_"))
    told = {"kind": kind, "name": name, "title": title, "dashed": name.replace("_", "-"), **KINDS[kind]}
    told["use"] = Template(told["use"]).substitute(told)
    files = {
        f"{name}/__init__.py": f"{kind}.py.txt",
        f"test_{name}.py": "test.py.txt",
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md",
        "sweep.yaml": "sweep.yaml",
    }
    return {
        file: Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(told)
        for file, template in files.items()
    }

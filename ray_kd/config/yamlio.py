"""YAML in and out, and ``key=value`` overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ray_kd.config.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 asks for 1.0e-3) and keys as they are written (there
    ``on`` is true), and refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys may be replaced
                continue
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: the file is missing, unreadable, no YAML, or holds no mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read '{file}': it is no UTF-8 text.") from error
    data = parse_yaml(text, str(file))
    if not isinstance(data, dict):
        raise UserError(f"{file}: expected a mapping of keys to values, found {type(data).__name__}.")
    return data


def parse_yaml(text: str, where: str) -> Any:
    """Any YAML value.

    Raises:
        UserError: no valid YAML; says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{where}: not valid YAML{place}: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}.") from error


def dump_yaml(data: Any) -> str:
    """Readable YAML, keys in their own order."""
    return yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with every ``a.b.0.c=value`` applied; values are YAML.

    Raises:
        UserError: an override without '=', or one that steps into something that is no mapping or list.
    """
    data = copy.deepcopy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{override}': expected key=value, for example optimizer.lr=0.05.")
        set_key(data, key.strip(), parse_yaml(text, f"override '{override}'"))
    return data


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings and lists, in place; missing mappings are made.

    Raises:
        UserError: the key steps into a value, or past the end of a list.
    """
    *parents, last = key.split(".")
    here: Any = data
    for depth, part in enumerate(parents):
        if isinstance(here, dict) and isinstance(here.get(part), str):
            here[part] = {"name": here[part]}  # 'aggregation: adaptive' then aggregation.k=2
        if isinstance(here, dict):
            here = here.setdefault(part, {})
            continue
        index = _index(here, part, ".".join(parents[: depth + 1]))
        if isinstance(here[index], str):
            here[index] = {"name": here[index]}  # 'paths: [nst]' then paths.0.weight=10
        here = here[index]
    if isinstance(here, dict):
        here[last] = value
    else:
        here[_index(here, last, key)] = value


def _index(here: Any, part: str, key: str) -> int:
    if not isinstance(here, list):
        raise UserError(f"override '{key}': there is a {type(here).__name__} above it, not a section.")
    if not part.isdigit() or int(part) >= len(here):
        raise UserError(f"override '{key}': expected an index from 0 to {len(here) - 1}, got '{part}'.")
    return int(part)

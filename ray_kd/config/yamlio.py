"""YAML in and out, and ``key=value`` overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ray_kd.config.errors import UserError
from ray_kd.config.names import UNSHOWN


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema: 010 is not octal, 1:30 is no number, and yes, on and dates are text.

    PyYAML itself follows YAML 1.1. Merge keys (``<<``) work, and keys are kept as they are written.
    """

    yaml_implicit_resolvers: dict[Any, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes all text that either schema would read as another type, or that would command a terminal."""

    def analyze_scalar(self, scalar: str) -> Any:
        # PyYAML itself writes characters that turn the order of others as they are.
        self.allow_unicode = UNSHOWN.search(scalar) is None
        return super().analyze_scalar(scalar)  # type: ignore[no-untyped-call]


_LEADING_ZERO = "!leading-zero"
_CORE = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_LEADING_ZERO, r"[-+]?0[0-9_]+", list("-+0")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
)
for _tag, _pattern, _first in _CORE:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: the file is missing or unreadable, or holds no valid YAML or no mapping.
    """
    try:
        data = Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}.") from error
    except UnicodeDecodeError as error:
        wide = " It looks like UTF-16." if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(f"cannot read '{file}': it is no UTF-8 text.{wide} Save it as UTF-8.") from error
    found = parse_yaml(text, str(file))
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected a mapping of keys to values, found {_kind(found)}.")
    return found


def parse_yaml(text: str, where: str) -> Any:
    """Any YAML value.

    Raises:
        UserError: no valid YAML, a key that occurs twice, or a number with leading zeros; says where.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, where, "", {})
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem)
        if "'\\t'" in problem:
            problem += "; YAML indents with spaces"
        raise UserError(f"{where}: not valid YAML{_place(error.problem_mark)}: {problem}.") from error
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise UserError(
            f"{where}: not valid YAML: the character U+{code:04X} at position {error.position} is no text."
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}.") from error


def _check(node: yaml.Node, where: str, key: str, done: dict[int, bool]) -> None:
    """Refuse values that readers of YAML understand differently, and keep keys as they are written."""
    if id(node) in done:
        if not done[id(node)]:
            raise UserError(f"{_at(where, key, node)} is an alias of a node that contains it.")
        return
    done[id(node)] = isinstance(node, yaml.ScalarNode)
    if node.tag == _LEADING_ZERO:
        plain = re.sub(r"^([-+]?)[0_]+(?=[0-9])", r"\1", node.value).replace("_", "")
        octal = f", 0o{plain} if it is octal" if not set(plain) & set("89+-") else ""
        raise UserError(
            f"{_at(where, key, node)}: {node.value} begins with a zero, which some read as "
            f"octal. Write {plain}{octal}, or '{node.value}' in quotes if it is text."
        )
    for index, entry in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
        _check(entry, where, f"{key}.{index}".lstrip("."), done)
    seen: set[str] = set()
    for name, entry in node.value if isinstance(node, yaml.MappingNode) else ():
        if name.tag != "tag:yaml.org,2002:merge":  # <<: *anchor, whose keys may be replaced
            if not isinstance(name, yaml.ScalarNode):
                raise UserError(f"{_at(where, key, name)}: expected a key that is text.")
            name.tag = "tag:yaml.org,2002:str"
            if name.value in seen:
                raise UserError(
                    f"{where}: not valid YAML{_place(name.start_mark)}: key '{name.value}' twice."
                )
            seen.add(name.value)
        _check(entry, where, f"{key}.{name.value}".lstrip("."), done)
    done[id(node)] = True


def _at(where: str, key: str, node: yaml.Node) -> str:
    return f"{where}{f': {key!r}' if key else ''}{_place(node.start_mark)}"


def _place(mark: yaml.Mark | None) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def _kind(value: Any) -> str:
    """The type of a value in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return {"list": "a list", "str": "text", "int": "a number", "float": "a number"}.get(
        type(value).__name__, type(value).__name__
    )


def dump_yaml(data: Any) -> str:
    """Readable YAML, keys in their own order."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True))


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with every ``a.b.0.c=value`` applied; values are YAML.

    Raises:
        UserError: an override has no '=', or its key goes into a value that is no mapping or list.
    """
    data = copy.deepcopy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"override '{override}': expected key=value, for example optimizer.lr=0.05.")
        set_key(data, key.strip(), parse_yaml(text, f"override '{override}'"))
    return data


def overridden_keys(overrides: Iterable[str]) -> list[str]:
    """The dotted keys that ``key=value`` overrides set."""
    return [override.partition("=")[0].strip() for override in overrides]


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested mappings and lists, in place; missing mappings are created."""
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
        raise UserError(f"override '{key}': there is {_kind(here)} above it, not a section.")
    if not part.isdigit() or int(part) >= len(here):
        raise UserError(f"override '{key}': expected an index from 0 to {len(here) - 1}, got '{part}'.")
    return int(part)

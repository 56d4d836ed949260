"""What a run or sweep file names and what lies beside it: folders of data, files of weights, modules of code.

A relative name is looked for in the folder of the file that names it, then in the working directory, where
overrides of a command line are looked for alone. Where both have it and they are not the same, it is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL, is_published
from ray_kd.config.registry import DATASETS, MODELS, load_plugins
from ray_kd.config.yamlio import apply_overrides, overridden_keys

Keys = tuple[str, ...]
Folder = Annotated[str, AfterValidator(lambda path: os.path.abspath(os.path.expanduser(path)))]
"""A folder; made absolute where the spec is read, since a cluster's workers have another current folder."""
NETWORKS = (("student",), ("teacher",), ("model",))
"""Sections that may name files of weights."""


def run_of(data: dict[str, Any], file: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The run that a run file holds, with overrides, whatever lies beside the file found.

    Raises:
        UserError: as ``with_code`` and ``found_beside``; an override is none.
    """
    said = apply_overrides({}, overrides)
    data = with_code(data, file, (data, Path(file).parent), (said, Path()))
    return apply_overrides(found_beside(data, file, overridden_keys(overrides)), overrides)


def with_code(run: Any, file: str | Path, *named: tuple[Any, str | Path]) -> Any:
    """A run's mapping that says in which folders its own code lies, and that code imported.

    Args:
        file: the run's own; its relative folders are below this file's.
        named: mappings that name modules, each with the folder that they may lie in.

    Raises:
        UserError: a module that lies in one of the folders is another one elsewhere, or cannot be imported.
    """
    given, own = run.get("code", []) if isinstance(run, dict) else None, os.path.dirname(file)
    if not isinstance(given, (list, tuple)) or not all(isinstance(entry, str) for entry in given):
        return run  # what validation refuses
    folders = [os.path.abspath(os.path.join(own, os.path.expanduser(entry))) for entry in given]
    for data, place in named:
        folder = os.path.abspath(place)
        if any(_file_of(module, folder) is not None for module in modules_in(data)):
            folders.append(folder)
    if folders:
        run = {**run, "code": list(dict.fromkeys(folders))}
    import_code(run)
    return run


def import_code(run: Mapping[str, Any]) -> None:
    """Make the modules of a run importable in this process, and import its plug-ins.

    Its folders come last in Python's own list, so that a file beside a run file takes no library's place.

    Raises:
        UserError: as ``with_code``.
    """
    code = run.get("code") or ()
    for folder in code if isinstance(code, (list, tuple)) else ():
        if not isinstance(folder, str) or not os.path.isdir(folder):
            continue  # a node that has no such folder has its modules sent
        for module in modules_in(run):
            _require_one(module, folder)
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()
    plugins = run.get("plugins") or ()
    load_plugins([str(name) for name in plugins] if isinstance(plugins, (list, tuple)) else [str(plugins)])


def modules_in(data: Any) -> list[str]:
    """The modules of plug-ins and factories that a mapping names, dotted keys and lists of values too."""
    found = []
    for keys, value in _values(data):
        if keys[-1:] == ("plugins",):
            found.append(value)
        elif keys[-1:] == ("build",) and ":" in value:
            found.append(value.partition(":")[0])
    return list(dict.fromkeys(found))


def loaded_code(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules of this process that lie in the folders of a run's code, those it names loaded first."""
    folders = {os.path.realpath(folder) for folder in run.get("code") or ()}
    for module in modules_in(run):
        if any(_file_of(module, folder) is not None for folder in folders):
            importlib.import_module(module)
    found = []
    for name, loaded in sorted(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if file is None or "." in name or name == "__main__":
            continue
        place = Path(os.path.realpath(file))
        if str(place.parents[1 if place.name == "__init__.py" else 0]) in folders:
            found.append(name)
    return tuple(found)


def found_beside(data: Any, file: str | Path, overridden: Iterable[str] = ()) -> Any:
    """A copy of a file's mapping whose relative places are absolute where they lie beside it.

    Args:
        overridden: dotted keys that the file does not decide.

    Raises:
        UserError: something else of that name lies in the working directory.
    """
    roots = {place for name in DATASETS.names() for place in DATASETS.get(name).Options.places}
    weights = {name for kind in MODELS.names() for name in getattr(MODELS.get(kind).Options, "files", ())}

    said = [tuple(key.split(".")) for key in overridden]

    def look(keys: Keys, value: str) -> str:
        if any(keys[: len(parts)] == parts for parts in said):
            return value
        key, section = keys[-1], keys[-2:-1]
        of_data = key in roots and section == ("dataset",)
        of_model = key in weights and (section in NETWORKS or keys[-3:-2] == ("teachers",))
        if not of_data and (not of_model or value == INITIAL or is_published(value)):
            return value
        return _beside(value, ".".join(keys), Path(file))

    return _changed(data, look)


def _beside(value: str, key: str, file: Path) -> str:
    path = os.path.expanduser(value)
    if not path or os.path.isabs(path) or "://" in path:
        return value
    beside, here = os.path.abspath(file.parent / path), os.path.abspath(path)
    if set(Path(path).parts) <= {".."}:
        return beside  # such a folder is everywhere, so that it is there says nothing
    if not os.path.exists(beside):
        return value
    if os.path.exists(here) and not os.path.samefile(beside, here):
        raise UserError(
            f"{file}: {key}: '{value}' lies beside that file ('{beside}') and in the working directory "
            f"('{here}'): which is meant? Write one of these absolute paths, there or on the command line."
        )
    return beside


def _require_one(module: str, folder: str) -> None:
    """Whether Python finds no other module of a name that lies in a folder."""
    top = module.partition(".")[0]
    file = _file_of(top, folder)
    if file is None:
        return
    try:
        importlib.invalidate_caches()
        known = importlib.util.find_spec(top)
        other = None if known is None else known.origin
    except ValueError:  # it is loaded and does not say how
        other = getattr(sys.modules[top], "__file__", None)
    if other is None:  # none, or a folder without code of its own, which Python takes last
        return
    # A copy is what a cluster's node was sent.
    if os.path.exists(other) and Path(other).read_bytes() == file.read_bytes():
        return
    raise UserError(
        f"module '{top}' of this run is '{file}', and Python has another of that name ('{other}'). Give "
        "yours another name; or, if both are of runs of your own, train them in processes of their own."
    )


def _file_of(module: str, folder: str | Path) -> Path | None:
    """Where a folder has a module."""
    place = Path(folder, *module.split("."))
    files = (place.parent / f"{place.name}.py", place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _values(data: Any, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """All texts in a mapping, each with the parts of its key."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _values(value, (*keys, *str(key).split(".")))
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _values(value, keys)
    elif isinstance(data, str):
        yield keys, data


def _changed(data: Any, change: Callable[[Keys, str], str], keys: Keys = ()) -> Any:
    """A copy of a mapping with some of its texts changed."""
    if isinstance(data, Mapping):
        return {key: _changed(value, change, (*keys, *str(key).split("."))) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_changed(value, change, keys) for value in data]
    return change(keys, data) if isinstance(data, str) and keys else data

"""Registries: how a path, aggregator, task, dataset, view or model becomes a name in a spec.

A component is a class with a nested ``Options`` (a typed, strict pydantic model). Registering it is
one decorator; nothing else has to know of it. Built-in components are found by importing the modules
of their package on first use; those of other projects by an entry point in the group ``ray_kd.plugins``, or
by ``plugins:`` in a spec.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray_kd.config.errors import UserError, unknown

C = TypeVar("C", bound=type)

PLUGINS = "ray_kd.plugins"
"""The group of entry points; each names a module that registers components when it is imported."""


@dataclass
class Registry:
    """All components of one kind, by name.

    Args:
        kind: what a user calls it ("path", "aggregator", ...); used in messages.
    """

    kind: str
    package: str
    _entries: dict[str, type] = field(default_factory=dict)
    _loaded: set[str] = field(default_factory=set)

    def register(self, name: str, *, version: int = 1, source: str = "") -> Callable[[C], C]:
        """Class decorator: make the class known as ``name``.

        Args:
            name: what a spec calls it.
            version: raised whenever the same options give other numbers; part of a run's identity.
            source: authors, venue, arXiv id of the method; shown by ``ray-kd list``.

        Raises:
            UserError: another class, of ray-kd or of a plug-in, has that name already; the class has no
                ``Options`` of its own.

        Example:
            >>> from ray_kd.plugin import Aggregator, AggregatorOptions, register_aggregator
            >>> class HalfOptions(AggregatorOptions):
            ...     '''Options of halves.'''
            >>> @register_aggregator("example_half", source="A. Author, VENUE 2026")
            ... class Half(Aggregator):
            ...     '''Half: every path counts 0.5.'''
            ...     Options = HalfOptions
            ...     def factors(self, seen):
            ...         return seen.new_full(seen.shape, 0.5)
            >>> Half.name, Half.source
            ('example_half', 'A. Author, VENUE 2026')
        """

        def add(cls: C) -> C:
            if not _is_of(cls, self.package):
                self._load_built_in()  # so that it is the plug-in that fails where both have a name
            known = self._entries.get(name)
            if known is not None and _code(known) != _code(cls):
                raise UserError(
                    f"{self.kind} '{name}' is registered twice: by {_place(known)} and by {_place(cls)}. "
                    "Give the second one another name."
                )
            for attribute, value in (("name", name), ("version", version), ("source", source)):
                setattr(cls, attribute, value)
            options = getattr(cls, "Options", None)
            if options is None or options.__dict__.get("component_name", name) != name:
                raise UserError(
                    f"{self.kind} '{name}' ({_place(cls)}) needs an Options class of its own: write "
                    "'class MyOptions(...)', with the Options of the class's base in the brackets, and "
                    "'Options = MyOptions' in the class."
                )
            options.component_name, options.component_version = name, version
            self._entries[name] = cls
            return cls

        return add

    def get(self, name: str, where: str = "") -> Any:
        """The class registered as ``name``.

        Raises:
            UserError: unknown name; the message carries the nearest valid one.
        """
        self.load()
        if name not in self._entries:
            raise unknown(self.kind, str(name), self._entries, where)
        return self._entries[name]

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self.load()
        return sorted(self._entries)

    def from_plugins(self) -> list[type]:
        """The classes that plug-ins registered, by name."""
        return [self._entries[name] for name in self.names() if not _is_of(self._entries[name], self.package)]

    def load(self) -> None:
        """Import the built-in modules of this kind and the entry points of plug-ins, once.

        Raises:
            UserError: an entry point that cannot be imported, or registers a name that is taken.
        """
        self._load_built_in()
        self._once("plug-ins", entry_points, _load_entry_point)

    def _load_built_in(self) -> None:
        self._once("built-in", self._modules, importlib.import_module)

    def _modules(self) -> list[str]:
        package = importlib.import_module(self.package)
        return [f"{self.package}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]

    def _once(self, what: str, find: Callable[[], Iterable[Any]], load: Callable[[Any], object]) -> None:
        """Find and load them unless that was done, or is being done; after an error the next call tries
        again."""
        if what in self._loaded:
            return
        self._loaded.add(what)
        try:
            for found in find():
                load(found)
        except BaseException:
            self._loaded.discard(what)
            raise


def _is_of(cls: type, package: str) -> bool:
    return cls.__module__.startswith(f"{package}.")


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _code(cls: type) -> tuple[str, str]:
    """Where a class is written: if its module or script is run again, that defines the same class."""
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__, cls.__qualname__


def entry_points() -> list[importlib.metadata.EntryPoint]:
    """The plug-ins that are installed here."""
    return sorted(importlib.metadata.entry_points(group=PLUGINS), key=lambda point: point.value)


def distribution(point: importlib.metadata.EntryPoint) -> str:
    """Name and version of the package that an entry point came with."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _load_entry_point(point: importlib.metadata.EntryPoint) -> None:
    try:
        point.load()
    except UserError as error:
        raise UserError(f"plug-in {distribution(point)} ('{point.value}'): {error}") from error
    except Exception as error:
        raise UserError(
            f"plug-in {distribution(point)}: cannot import '{point.value}' "
            f"({type(error).__name__}: {error}). Mend or uninstall that package."
        ) from error


PATHS = Registry("path", "ray_kd.paths")
AGGREGATORS = Registry("aggregator", "ray_kd.aggregation")
TASKS = Registry("task", "ray_kd.tasks")
DATASETS = Registry("dataset", "ray_kd.data")
VIEWS = Registry("view", "ray_kd.data")
MODELS = Registry("model", "ray_kd.models")
REGISTRIES = {
    "paths": PATHS,
    "aggregators": AGGREGATORS,
    "models": MODELS,
    "datasets": DATASETS,
    "views": VIEWS,
    "tasks": TASKS,
}


def load_plugins(modules: list[str]) -> None:
    """Import the modules that register a user's own components."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"plugins: cannot import '{module}' ({error}). It must be importable where ray-kd runs: "
                "installed, in a folder on PYTHONPATH, or beside the file that names it."
            ) from error

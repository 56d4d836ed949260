"""Registries: how a path, aggregator, task, dataset, view or model becomes a name in a spec.

A component is a class with a nested ``Options`` (a typed, strict pydantic model). Registering it is
one decorator; nothing else has to know of it. Built-in components are found by importing the modules
of their package on first use; those of other projects by an entry point or by ``plugins:`` in a spec.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray_kd.config.errors import UserError, unknown

C = TypeVar("C", bound=type)


@dataclass
class Registry:
    """All components of one kind, by name.

    Args:
        kind: what a user calls it ("path", "aggregator", ...); used in messages.
        package: the package whose modules register the built-in ones.
    """

    kind: str
    package: str
    _entries: dict[str, type] = field(default_factory=dict)
    _loaded: bool = False

    def register(self, name: str, *, version: int = 1, source: str = "") -> Callable[[C], C]:
        """Class decorator: make the class known as ``name``.

        Args:
            name: what a spec calls it.
            version: raised whenever the same options give other numbers; part of a run's identity.
            source: authors, venue, arXiv id of the method; shown by ``ray-kd list``.

        Raises:
            UserError: if another class has that name already.
        """

        def add(cls: C) -> C:
            known = self._entries.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise UserError(f"{self.kind} '{name}' is registered twice: {known!r} and {cls!r}.")
            for attribute, value in (("name", name), ("version", version), ("source", source)):
                setattr(cls, attribute, value)
            options = getattr(cls, "Options", None)
            if options is None or options.__dict__.get("component_name", name) != name:
                raise UserError(f"{self.kind} '{name}' ({cls!r}) needs an Options class of its own.")
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

    def load(self) -> None:
        """Import the built-in modules and the entry points of this kind, once."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in importlib.metadata.entry_points(group=self.package):
            point.load()


PATHS = Registry("path", "ray_kd.paths")
AGGREGATORS = Registry("aggregator", "ray_kd.aggregation")
TASKS = Registry("task", "ray_kd.tasks")
DATASETS = Registry("dataset", "ray_kd.data")
VIEWS = Registry("view", "ray_kd.data")
MODELS = Registry("model", "ray_kd.models")
REGISTRIES = {
    "paths": PATHS,
    "aggregators": AGGREGATORS,
    "tasks": TASKS,
    "datasets": DATASETS,
    "views": VIEWS,
    "models": MODELS,
}


def load_plugins(modules: list[str]) -> None:
    """Import the modules that register a user's own components.

    Raises:
        UserError: a module that cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(
                f"plugins: cannot import '{module}' ({error}). It must be importable where ray-kd runs "
                "(installed, or its folder on PYTHONPATH)."
            ) from error

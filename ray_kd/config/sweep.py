"""SweepSpec: which runs are compared. docs/reference.md shows a file with every key."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ray_kd.config.beside import found_beside, with_code
from ray_kd.config.cells import SEARCHED, TASK, Cell, Overrides, product_cells, searched_name, strategy_name
from ray_kd.config.chance import DEFAULT, Source, sources
from ray_kd.config.errors import unknown
from ray_kd.config.names import require_distinct, require_name
from ray_kd.config.options import Strict
from ray_kd.config.plan import Plan, make_plan
from ray_kd.config.seeds import SeedLooks, Seeds, SeedsField, require_seeds
from ray_kd.config.space import Space
from ray_kd.config.training import Count, NotNegative, Positive
from ray_kd.config.validation import validate
from ray_kd.config.yamlio import apply_overrides, dump_yaml, overridden_keys, read_yaml

_POPULATION = ("pbt", "pb2", "pbt_replay", "population_based_training")


MONITOR = "monitor"
"""Stands for the metric by which each run's task chooses its best epoch."""


class Metric(Strict):
    """The validation metric that ranks trials while a sweep runs; also the main column of its table."""

    name: str = "top1"
    """``monitor``: the metric of each run's own task (top1, miou, map), for a sweep over several tasks."""
    mode: Literal["max", "min"] = "max"


class Search(Strict):
    """A search with a fixed budget. It reads only validation metrics; its winner is trained on all seeds."""

    method: Literal["grid", "random", "optuna"] = "random"
    trials: Count | None = None
    """Candidates for each cell. ``grid`` tries all of them and takes no other number."""
    space: dict[str, Space]
    """Dotted key -> the values it may take."""
    cells: Literal["all"] | tuple[str, ...] = "all"
    """The cells to search, each with the whole budget."""
    seeds: Seeds = (0,)
    """Each candidate is trained once for each of these seeds; its value is the mean."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the search's own draws."""

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        require_seeds("seeds", self.seeds)
        if not self.space:
            raise ValueError("space: expected at least one key to search")
        if self.method == "grid":
            for key, space in self.space.items():
                if space.choice is None:
                    raise ValueError(f"space.{key}: a grid needs a list of values, got {space.kind}")
            size = self.grid_size()
            if self.trials not in (None, size):
                raise ValueError(f"trials: the grid has {size} points; leave trials out, got {self.trials}")
        elif self.trials is None:
            raise ValueError(f"trials: method {self.method} needs a number of trials")
        return self

    def grid_size(self) -> int:
        """The number of candidates of a grid."""
        size = 1
        for space in self.space.values():
            size *= len(space.choice or ())
        return size

    @property
    def budget(self) -> int:
        """Candidates for each cell."""
        return self.trials or self.grid_size()


class Scheduler(Strict):
    """Early stopping by validation metrics, between epochs."""

    name: Literal["asha", "median"]
    grace_epochs: Count = 5
    """No trial is stopped before this epoch."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """asha: the best 1/reduction of each rung's trials continue."""
    min_samples: Count = 3
    """median: how many trials must have reported before one can be stopped."""


class SweepResources(Strict):
    """Resources that differ from the base run's."""

    workers: Count | None = None
    cpus: Positive | None = None
    gpus: NotNegative | None = None
    loaders: Annotated[int, Field(ge=0)] | None = None


class SweepSpec(Strict):
    """A base run, and the cells (named combinations of overrides) that are compared over seeds."""

    name: str
    base: dict[str, Any]
    """A run, or the path of its file relative to the sweep's."""
    seeds: SeedsField = (0, 1, 2, 3, 4)
    """Each cell is trained once for each of them; a mapping (below) lets strategies end early, at looks."""
    vary: Annotated[tuple[Source, ...], BeforeValidator(sources)] = DEFAULT
    """What each seed redraws: student (initialisation and order), teacher (each seed trains its own), labels
    (which ones ``dataset.labels`` keeps), split (which samples train, validate and test), views (the draws
    of augmentation). What is not listed is the same for all seeds. A cell may have a ``vary`` of its own."""
    baseline: str | None = None
    """The cell that every other cell is compared with; with an axis ``task``, a name without the task's label
    means that strategy in each task."""
    metric: Annotated[Metric, BeforeValidator(lambda value: _metric(value))] = Metric()
    axes: dict[str, dict[str, Overrides] | tuple[Any, ...]] = Field(default_factory=dict)
    """Axes whose product gives cells: a dotted key with values, or a name with labelled sets of overrides."""
    cells: dict[str, Overrides] = Field(default_factory=dict)
    """Further cells by name, each with dotted overrides of the base."""
    controls: dict[str, Overrides] = Field(default_factory=dict)
    """Cells outside the comparison (such as the baseline with twice the epochs), phase ``control``."""
    control_seeds: Seeds | None = None
    """Seeds of the controls; default: all seeds of the sweep, with looks those of the first look."""
    search: Annotated[tuple[Search, ...], BeforeValidator(lambda value: _several(value))] = ()
    """One search or several; each cell is in at most one."""
    scheduler: Annotated[Scheduler | None, BeforeValidator(lambda value: _scheduler(value))] = None
    resources: SweepResources = SweepResources()
    concurrency: Count | None = None
    """The most trials at the same time; default: as many as the machines have room for."""

    @field_validator("name")
    @classmethod
    def _folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError("expected letters, digits, '-', '_' or '.': it names a folder")
        if len(name) > 100:
            raise ValueError(f"expected at most 100 characters, got {len(name)}: it names a folder")
        return name

    @field_validator("axes", mode="before")
    @classmethod
    def _axis_forms(cls, axes: Any) -> Any:
        for axis, values in axes.items() if isinstance(axes, dict) else ():
            labelled = isinstance(values, dict) and all(isinstance(given, dict) for given in values.values())
            if not (labelled or isinstance(values, (list, tuple))):
                raise ValueError(f"{axis}: expected a list of values, or labels that each map to overrides")
            if not values:
                raise ValueError(f"{axis}: the sweep has no trials; expected at least one value")
        return axes

    @model_validator(mode="after")
    def _consistent(self) -> SweepSpec:
        require_seeds("seeds", self.all_seeds)
        if self.control_seeds is not None:
            require_seeds("control_seeds", self.control_seeds, self.all_seeds)
        names = [cell.name for cell in self.all_cells()]
        names += list(self.controls)
        for name in names:
            require_name(name, "cells: a cell")
            if name.endswith(SEARCHED):
                raise ValueError(f"cells: '{name}' is the name of a search's winner; choose another")
        require_distinct(names, "cells")
        if not names:
            raise ValueError("cells: the sweep has no trials; name some in 'cells', or give 'axes'")
        self._check_search()
        compared = [name for name in self.compared() if name not in self.controls]
        compared += [strategy_name(cell.name, cell.axes) for cell in self.all_cells()]
        if self.baseline is not None and self.baseline not in compared:
            raise ValueError(f"baseline: {_choose('cell', self.baseline, dict.fromkeys(compared))}")
        self._check_looks()
        return self

    def _check_looks(self) -> None:
        if not isinstance(self.seeds, SeedLooks):
            return
        if self.baseline is None:
            raise ValueError(
                "seeds.looks: strategies are decided beside a baseline; name a cell in 'baseline'"
            )
        if self.scheduler is not None and not self.search:
            raise ValueError(
                f"scheduler: {self.scheduler.name} stops compared trials, and a strategy that lost seeds "
                "gets no verdict at a look; expected none, a search, or a list of seeds"
            )

    def _check_search(self) -> None:
        cells = [cell.name for cell in self.all_cells()]
        taken: set[str] = set()
        for search in self.search:
            for name in self.searched_by(search):
                if name not in cells:
                    raise ValueError(f"search.cells: {_choose('cell', name, cells)}")
                if name in taken:
                    raise ValueError(f"search.cells: '{name}' is searched twice")
                taken.add(name)
            for key in ("seed", "vary"):
                if key in search.space:
                    raise ValueError(f"search.space: '{key}' cannot be searched; the sweep sets it")

    @property
    def looks(self) -> tuple[int, ...] | None:
        """The numbers of seeds at which results are looked at; None where the seeds are a list.

        Where later looks depend on a pilot, it is the pilot's alone.
        """
        if not isinstance(self.seeds, SeedLooks):
            return None
        return self.seeds.at(self.strategies)

    @property
    def margin(self) -> float | None:
        """Half the width of what counts as the same; None: nothing does."""
        return self.seeds.margin if isinstance(self.seeds, SeedLooks) else None

    @property
    def all_seeds(self) -> Seeds:
        """The seeds of every compared cell, at most, in order."""
        if not isinstance(self.seeds, SeedLooks):
            return self.seeds
        return tuple(range(self.seeds.first, self.seeds.first + self.seeds.last(self.strategies)))

    @property
    def seeds_of_controls(self) -> Seeds:
        """The seeds of every control."""
        looks = self.looks
        return self.control_seeds or self.all_seeds[: looks[0] if looks else None]

    @property
    def strategies(self) -> int:
        """How many strategies are compared with a reference, in a task at most."""
        counts: Counter[Any] = Counter()
        searched = {name for search in self.search for name in self.searched_by(search)}
        for cell in self.all_cells():
            if self.baseline not in (cell.name, strategy_name(cell.name, cell.axes)):
                counts[cell.axes.get(TASK)] += 1 + (cell.name in searched)
        return max(counts.values(), default=0)

    def searched_by(self, search: Search) -> tuple[str, ...]:
        """The names of a search's cells."""
        if search.cells == "all":
            return tuple(cell.name for cell in self.all_cells())
        return search.cells

    def all_cells(self) -> list[Cell]:
        """The compared cells that are known before the sweep: the product of the axes, then ``cells``."""
        cells = product_cells(self.axes) if self.axes else []
        return [*cells, *(Cell(name=name, overrides=given) for name, given in self.cells.items())]

    def compared(self) -> list[str]:
        """Names of all cells, in order: those of the file, winners of searches, controls."""
        cells = [cell.name for cell in self.all_cells()]
        winners = [searched_name(name) for search in self.search for name in self.searched_by(search)]
        return [*cells, *winners, *self.controls]

    def plan(self) -> Plan:
        """All trials that are known before the sweep starts.

        Raises:
            UserError: the overrides of a cell make no valid run.
        """
        return make_plan(self)

    @classmethod
    def load(cls, file: str | Path, *overrides: str) -> SweepSpec:
        """Read a sweep file and apply ``key=value`` overrides (``base.optimizer.lr=0.05`` reaches the run).

        Raises:
            UserError: the file cannot be read, a key or name is unknown, or a value has the wrong type.
        """
        data, folder = read_yaml(file), Path(file).parent
        keys = [key.removeprefix("base.") for key in overridden_keys(overrides)]
        named = [(data, folder), (apply_overrides({}, overrides), Path())]
        if isinstance(data.get("base"), str):
            base_file = folder / data["base"]
            base = read_yaml(base_file)
            base = found_beside(with_code(base, base_file, (base, base_file.parent), *named), base_file, keys)
        else:
            base = found_beside(with_code(data.get("base"), file, *named), file, keys)
        rest = {key: value for key, value in data.items() if key != "base"}
        data = {**data, **found_beside(rest, file)} | ({"base": base} if "base" in data else {})
        return cls.parse(apply_overrides(data, overrides), where=str(file))

    @classmethod
    def parse(cls, data: dict[str, Any], where: str = "sweep") -> SweepSpec:
        """Validate a mapping whose base is a mapping too.

        Raises:
            UserError: as ``load``.

        Example:
            >>> base = {"dataset": "digits", "student": "digits_cnn"}
            >>> cells = {"slow": {"optimizer.lr": 0.01}, "fast": {"optimizer.lr": 0.1}}
            >>> sweep = SweepSpec.parse({"name": "rates", "base": base, "cells": cells, "seeds": [0, 1]})
            >>> [(trial.cell, trial.seed) for trial in sweep.plan().trials]
            [('slow', 0), ('slow', 1), ('fast', 0), ('fast', 1)]
        """
        return validate(cls, data, where)

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec, every default written out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_yaml(self) -> str:
        """The resolved spec as YAML, its base inside; ``load`` reads it back to an equal spec."""
        return dump_yaml(self.to_dict())


def _metric(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _several(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, (dict, Search)) else value


def _scheduler(value: Any) -> Any:
    if value in (None, "none"):
        return None
    data = {"name": value} if isinstance(value, str) else value
    name = data.get("name") if isinstance(data, dict) else None
    if isinstance(name, str) and name.lower() in _POPULATION:
        raise ValueError(
            f"'{name}' changes a trial's settings while it trains, so the trial has no fixed identity and "
            "could not be found or repeated. Use asha or median, with a search"
        )
    return data


def _choose(kind: str, name: str, known: Iterable[str]) -> str:
    return str(unknown(kind, name, known)).rstrip(".")

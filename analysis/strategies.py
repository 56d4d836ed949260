"""The strategies of a sweep: what the trials of each cell trained, read from their records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ray_kd.analysis.headline import option_text
from ray_kd.analysis.records import by_seed
from ray_kd.analysis.verdicts import ended_seeds
from ray_kd.config.cells import SEARCHED
from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS, MODELS, Registry

ALONE = "student alone"
PathSet = tuple[str, frozenset[str], frozenset[str]]
"""Setting, clean paths, harmful paths: strategies with an equal set are compared with one another."""


@dataclass(frozen=True)
class Strategy:
    """One cell of a sweep: an aggregator on a set of paths, for one student and dataset, over seeds.

    Attributes:
        setting: student and dataset; where cells differ in them, only what differs.
        clean: labels of the paths whose targets are not corrupted.
        harmful: labels of the paths that are corrupted on purpose.
        name: ``student alone``, ``<path> alone``, or the aggregator's name; `` (searched)`` follows
            where a search chose its settings.
        validation, test: the metric of the weights that were best on validation, by seed.
        identities: the runs, by seed.
        ended: the seeds whose trial has ended, in whatever way.
        epochs: epochs of each run.
    """

    cell: str
    setting: str
    clean: frozenset[str]
    harmful: frozenset[str]
    name: str
    validation: dict[int, float]
    test: dict[int, float]
    identities: dict[int, str]
    ended: frozenset[int]
    epochs: int

    @property
    def is_alone(self) -> bool:
        """Whether the student learns from labels alone, or from one path."""
        return len(self.clean) + len(self.harmful) < 2

    @property
    def path_set(self) -> PathSet:
        """Setting, clean paths and harmful paths."""
        return self.setting, self.clean, self.harmful


def strategies_of(trials: pd.DataFrame, metric: str) -> list[Strategy]:
    """The strategies among the compared trials that finished, in the sweep's order."""
    compared = trials[trials["phase"] == "compare"]
    done = compared[compared["status"] == "finished"]
    groups = [(str(cell), rows) for cell, rows in done.groupby("cell", sort=False)]
    ended = [ended_seeds(compared[compared["cell"] == cell]) for cell, _ in groups]
    settings = _titles([_setting(rows.iloc[0]) for _, rows in groups])
    options = [_options(rows.iloc[0]["aggregation_options"]) for _, rows in groups]
    given = zip(groups, settings, ended, strict=True)
    found = [_strategy(*group, setting, seeds, metric) for group, setting, seeds in given]
    return [_distinct(found, options, place) for place in range(len(found))]


def _strategy(cell: str, rows: pd.DataFrame, setting: str, ended: frozenset[int], metric: str) -> Strategy:
    first = rows.iloc[0]
    labels, harmful = frozenset(_split(first["paths"])), frozenset(_split(first["harmful"]))
    clean = labels - harmful
    name = str(first["aggregation"])
    if not labels:
        name = ALONE
    elif len(labels) == 1:
        name = f"{next(iter(labels))} alone"
    if cell.endswith(SEARCHED):
        name += SEARCHED
    return Strategy(
        cell=cell,
        setting=setting,
        clean=clean,
        harmful=harmful,
        name=name,
        validation=by_seed(rows, f"best_val_{metric}"),
        test=by_seed(rows, f"best_test_{metric}"),
        identities={int(seed): str(run) for seed, run in zip(rows["seed"], rows["identity"], strict=True)},
        ended=ended,
        epochs=int(first["planned_epochs"]),
    )


def _distinct(strategies: list[Strategy], options: list[dict[str, Any]], place: int) -> Strategy:
    """The strategy at ``place``; where cells differ only in the aggregator's options, its name has them."""
    strategy = strategies[place]
    same = [
        index
        for index, other in enumerate(strategies)
        if (other.path_set, other.name) == (strategy.path_set, strategy.name)
    ]
    if len(same) == 1:
        return strategy
    differ = sorted(
        key
        for key in {key for index in same for key in options[index]}
        if len({json.dumps(options[index].get(key)) for index in same}) > 1
    )
    text = ", ".join(f"{key} {option_text(options[place].get(key))}" for key in differ) or strategy.cell
    return dataclasses.replace(strategy, name=f"{strategy.name} [{text}]")


def _setting(trial: pd.Series) -> dict[str, Any]:
    values = {
        f"{part}.{key}": value
        for part in ("student", "dataset")
        for key, value in _options(trial[f"{part}_options"]).items()
    }
    return {"student": trial["student"], "dataset": trial["dataset"], **values}


def _titles(settings: list[dict[str, Any]]) -> list[str]:
    """What each setting is called: by the values that differ within the sweep; where none does, by the
    names of student and dataset and the options that are not their defaults."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    differ = [key for key in keys if len({json.dumps(setting.get(key)) for setting in settings}) > 1]
    if not differ:
        return [
            ", ".join([setting["student"], *_changed("student", MODELS, setting), setting["dataset"]])
            + "".join(f", {text}" for text in _changed("dataset", DATASETS, setting))
            for setting in settings
        ]
    return [
        ", ".join(f"{key.rpartition('.')[2]} {option_text(setting.get(key))}" for key in differ)
        for setting in settings
    ]


def _changed(part: str, registry: Registry, setting: dict[str, Any]) -> list[str]:
    """The options of a component that are not its defaults, as printed; all options of an unknown
    component (its plug-in is not loaded)."""
    try:
        defaults = registry.get(setting[part]).Options().model_dump(mode="json")
    except UserError:
        defaults = {}
    given = {key.rpartition(".")[2]: value for key, value in setting.items() if key.startswith(f"{part}.")}
    changed = ((key, value) for key, value in given.items() if key not in defaults or defaults[key] != value)
    return [f"{key} {option_text(value)}" for key, value in changed]


def _options(text: Any) -> dict[str, Any]:
    options = json.loads(text) if isinstance(text, str) and text else {}
    return options if isinstance(options, dict) else {}


def _split(text: Any) -> Iterable[str]:
    return [part for part in str(text).split(", ") if part] if isinstance(text, str) else []

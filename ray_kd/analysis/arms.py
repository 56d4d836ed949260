"""The arms of a judgement: what each cell of a sweep trained, read from its trials."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ray_kd.analysis.headline import said
from ray_kd.analysis.records import by_seed
from ray_kd.config.cells import SEARCHED
from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS, MODELS, Registry

ALONE = "student alone"


@dataclass(frozen=True)
class Arm:
    """One cell: a strategy on a set of paths, for one student and one label budget, over seeds.

    Attributes:
        setting: student and dataset, as far as they differ within the sweep.
        clean: labels of the paths that teach what the teacher knows.
        harmful: labels of those that are spoilt on purpose.
        strategy: ``student alone``, ``<path> alone``, or the aggregator's name; `` (searched)`` follows
            where a search chose its settings.
        validation, test: the metric of the weights that were best on validation, by seed.
        identities: the runs, by seed.
        epochs: epochs of each run.
    """

    cell: str
    setting: str
    clean: frozenset[str]
    harmful: frozenset[str]
    strategy: str
    validation: dict[int, float]
    test: dict[int, float]
    identities: dict[int, str]
    epochs: int

    @property
    def is_alone(self) -> bool:
        """Whether the student learns from labels alone, or from one path."""
        return len(self.clean) + len(self.harmful) < 2


def arms_of(trials: pd.DataFrame, metric: str) -> list[Arm]:
    """The arms among the compared trials that finished, in the sweep's order."""
    done = trials[(trials["phase"] == "compare") & (trials["status"] == "finished")]
    groups = [(str(cell), rows) for cell, rows in done.groupby("cell", sort=False)]
    settings = _titles([_setting(rows.iloc[0]) for _, rows in groups])
    options = [_options(rows.iloc[0]["aggregation_options"]) for _, rows in groups]
    arms = [_arm(cell, rows, setting, metric) for (cell, rows), setting in zip(groups, settings, strict=True)]
    return [_distinct(arm, arms, options, place) for place, arm in enumerate(arms)]


def _arm(cell: str, rows: pd.DataFrame, setting: str, metric: str) -> Arm:
    first = rows.iloc[0]
    labels, harmful = frozenset(_split(first["paths"])), frozenset(_split(first["harmful"]))
    clean = labels - harmful
    strategy = str(first["aggregation"])
    if not labels:
        strategy = ALONE
    elif len(labels) == 1:
        strategy = f"{next(iter(labels))} alone"
    if cell.endswith(SEARCHED):
        strategy += SEARCHED
    return Arm(
        cell=cell,
        setting=setting,
        clean=clean,
        harmful=harmful,
        strategy=strategy,
        validation=by_seed(rows, f"best_val_{metric}"),
        test=by_seed(rows, f"best_test_{metric}"),
        identities={int(seed): str(run) for seed, run in zip(rows["seed"], rows["identity"], strict=True)},
        epochs=int(first["planned_epochs"]),
    )


def _distinct(arm: Arm, arms: list[Arm], options: list[dict[str, Any]], place: int) -> Arm:
    """Two cells of one strategy (an ablation, two granularities) are told apart by their options."""
    same = [
        index
        for index, other in enumerate(arms)
        if (other.setting, other.clean, other.harmful, other.strategy)
        == (arm.setting, arm.clean, arm.harmful, arm.strategy)
    ]
    if len(same) == 1:
        return arm
    differ = sorted(
        key
        for key in {key for index in same for key in options[index]}
        if len({json.dumps(options[index].get(key)) for index in same}) > 1
    )
    text = ", ".join(f"{key} {said(options[place].get(key))}" for key in differ) or arm.cell
    return Arm(**{**vars(arm), "strategy": f"{arm.strategy} [{text}]"})


def _setting(trial: pd.Series) -> dict[str, Any]:
    values = {
        f"{part}.{key}": value
        for part in ("student", "dataset")
        for key, value in _options(trial[f"{part}_options"]).items()
    }
    return {"student": trial["student"], "dataset": trial["dataset"], **values}


def _titles(settings: list[dict[str, Any]]) -> list[str]:
    """Each setting by the values that differ within the sweep; where there is one, by all it changes."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    differ = [key for key in keys if len({json.dumps(setting.get(key)) for setting in settings}) > 1]
    if not differ:
        return [
            ", ".join([setting["student"], *_changed("student", MODELS, setting), setting["dataset"]])
            + "".join(f", {text}" for text in _changed("dataset", DATASETS, setting))
            for setting in settings
        ]
    return [
        ", ".join(f"{key.rpartition('.')[2]} {said(setting.get(key))}" for key in differ)
        for setting in settings
    ]


def _changed(part: str, registry: Registry, setting: dict[str, Any]) -> list[str]:
    """The options of a component that are not its defaults, as printed; all, where no plug-in knows it."""
    try:
        defaults = registry.get(setting[part]).Options().model_dump(mode="json")
    except UserError:
        defaults = {}
    given = {key.rpartition(".")[2]: value for key, value in setting.items() if key.startswith(f"{part}.")}
    changed = ((key, value) for key, value in given.items() if key not in defaults or defaults[key] != value)
    return [f"{key} {said(value)}" for key, value in changed]


def _options(text: Any) -> dict[str, Any]:
    options = json.loads(text) if isinstance(text, str) and text else {}
    return options if isinstance(options, dict) else {}


def _split(text: Any) -> Iterable[str]:
    return [part for part in str(text).split(", ") if part] if isinstance(text, str) else []

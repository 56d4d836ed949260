"""Segmentation and detection with every path and every aggregator: real steps on scenes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ray_kd.config.registry import AGGREGATORS, PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import ProcessCache
from tests.helpers import daily, shifted
from tests.training.runs import lines, weights


class Dense(NamedTuple):
    """A dense task's smallest run, and what it is distilled by."""

    size: int
    model: str
    teacher: int
    classes: int
    head: str
    k: float
    staged: list[Any]
    """One path without stages, and one with two."""
    units: tuple[str, str]
    on_logits: list[Any]
    labels: set[str]


DENSE = {
    "segmentation": Dense(
        size=24,
        model="scenes_segnet",
        teacher=6,
        classes=11,
        head="head.weight",
        k=1e-3,
        staged=["soft_target", {"name": "channel_wise", "on": "features", "stages": [2, 3]}],
        units=("channel_wise/stage2", "channel_wise/stage3"),
        on_logits=["soft_target", {"name": "channel_wise", "weight": "published"}],
        labels={"soft_target", "channel_wise"},
    ),
    "detection": Dense(
        size=32,
        model="scenes_detector",
        teacher=8,
        classes=10,
        head="head.0.weight",
        k=1e-5,
        staged=["localisation", "fgfi"],
        units=("fgfi/stage0", "fgfi/stage1"),
        on_logits=["class_logit", {"name": "class_logit", "label": "everywhere", "where": "teacher"}],
        labels={"class_logit", "everywhere"},
    ),
}


def spec_of(storage: Path, task: str, **changes: Any) -> RunSpec:
    """A run of two steps on four scenes."""
    dense = DENSE[task]
    network = {"optimizer": {"name": "sgd", "lr": 0.01}, "training": {"epochs": 1, "batch_size": 2}}
    teacher = {"model": {"name": dense.model, "width": dense.teacher}, "weights": "initial", **network}
    return RunSpec.parse(
        {
            "name": "dense",
            "task": task,
            "dataset": {"name": "scenes", "size": dense.size, "train": 4, "validation": 2, "test": 2},
            "views": "none",
            "student": {"name": dense.model, "width": 4},
            "teacher": teacher,
            "storage": str(storage),
            **network,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def cache() -> ProcessCache:
    """Keeps the datasets and the teachers for all runs here."""
    return ProcessCache()


def train(spec: RunSpec, cache: ProcessCache) -> list[dict[str, Any]]:
    """Train; the records of its losses. They are finite, and the student has moved."""
    summary = distill(spec, cache=cache)
    rows = lines(Path(spec.storage), summary["identity"], "paths")
    assert rows
    assert all(math.isfinite(row[key]) for row in rows for key in ("loss", "weight"))
    dense = DENSE[spec.task.component_name]
    begin = create_model(spec.student, classes=dense.classes, channels=3, seed=spec.seed).state_dict()
    end = weights(Path(spec.storage), summary)
    assert all(values.isfinite().all() for values in end.values())
    assert not torch.equal(end[dense.head], begin[dense.head])
    return rows


@pytest.mark.outcome
@pytest.mark.parametrize("task", DENSE)
def test_every_path_in_one_run(tmp_path: Path, cache: ProcessCache, task: str, seed_shift: int) -> None:
    """Batches of four: distances between two samples, relative to their mean, are alike by definition."""
    known = {name for name in PATHS.names() if task in PATHS.get(name).tasks}
    paths = sorted(name for name in known if not name.startswith("roi_"))  # those need two stages
    changes = {
        "aggregation": {"name": "equal", "k": DENSE[task].k},
        "training": {"epochs": 2, "batch_size": 4},
    }
    rows = train(shifted(spec_of(tmp_path, task, paths=paths, **changes), seed_shift), cache)
    assert {row["path"].partition("/")[0] for row in rows} == set(paths)
    assert not [row for row in rows if abs(row["loss"]) < 1e-6], "a loss that is 0, or 0 up to rounding"


@pytest.mark.parametrize("name", daily(AGGREGATORS.names(), 8))
@pytest.mark.parametrize("task", DENSE)
def test_every_aggregator_by_path_and_by_layer(
    tmp_path: Path, cache: ProcessCache, task: str, name: str
) -> None:
    """AE-KD, whose gradients are those at the logits, on paths that compare logits: at all positions."""
    dense = DENSE[task]
    for granularity in ("path", "layer"):
        aggregation = {"name": name, "granularity": granularity}
        paths = dense.on_logits if name == "ae_kd" else dense.staged
        rows = train(spec_of(tmp_path, task, paths=paths, aggregation=aggregation), cache)
        plain, staged = (path if isinstance(path, str) else path["name"] for path in dense.staged)
        apart = {plain, *dense.units} if granularity == "layer" else {plain, staged}
        assert {row["path"] for row in rows} == (dense.labels if name == "ae_kd" else apart)

"""Detection with every path and every aggregator: real steps on scenes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.registry import AGGREGATORS, PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.training.distill import distill
from ray_kd.training.resident import Resident
from tests.training.test_invariants import lines, weights

DETECTORS = [
    name
    for name in PATHS.names()
    if "detection" in PATHS.get(name).tasks and not name.startswith("roi_")  # those need two stages
]
STAGED = ["localisation", "fgfi"]
ON_LOGITS = ["class_logit", {"name": "class_logit", "label": "everywhere", "where": "teacher"}]


def spec_of(storage: Path, **changes: Any) -> RunSpec:
    """A run of two steps on eight scenes."""
    network = {"optimizer": {"name": "sgd", "lr": 0.01}, "training": {"epochs": 1, "batch_size": 4}}
    return RunSpec.parse(
        {
            "name": "boxes",
            "task": "detection",
            "dataset": {"name": "scenes", "size": 32, "train": 8, "validation": 4, "test": 4},
            "views": "none",
            "student": {"name": "scenes_detector", "width": 4},
            "teacher": {"model": {"name": "scenes_detector", "width": 8}, "weights": "initial", **network},
            "storage": str(storage),
            **network,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def resident() -> Resident:
    """Keeps the dataset and the teacher for all runs here."""
    return Resident()


def train(spec: RunSpec, resident: Resident) -> list[dict[str, Any]]:
    """Train; the records of its losses. They are finite, and the student has moved."""
    summary = distill(spec, resident=resident)
    rows = lines(Path(spec.storage), summary["identity"], "paths")
    assert rows
    assert all(math.isfinite(row[key]) for row in rows for key in ("loss", "weight"))
    begin = create_model(spec.student, classes=10, channels=3, seed=spec.seed).state_dict()
    end = weights(Path(spec.storage), summary)
    assert all(values.isfinite().all() for values in end.values())
    assert not torch.equal(end["head.0.weight"], begin["head.0.weight"])
    return rows


def test_every_path_of_detection_in_one_run(tmp_path: Path, resident: Resident) -> None:
    rows = train(spec_of(tmp_path, paths=DETECTORS, aggregation={"name": "equal", "k": 1e-5}), resident)
    assert {row["path"].partition("/")[0] for row in rows} == set(DETECTORS)
    assert all(row["loss"] != 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGGREGATORS.names())
def test_every_aggregator_by_path_and_by_layer(tmp_path: Path, resident: Resident, name: str) -> None:
    """AE-KD on class logits alone: its gradients at the logits are of all positions of all levels."""
    for granularity in ("path", "layer"):
        aggregation = {"name": name, "granularity": granularity}
        paths = ON_LOGITS if name == "ae_kd" else STAGED
        rows = train(spec_of(tmp_path, paths=paths, aggregation=aggregation), resident)
        if name == "ae_kd":
            units = {"class_logit", "everywhere"}
        else:
            levels = {"fgfi/stage0", "fgfi/stage1"} if granularity == "layer" else {"fgfi"}
            units = {"localisation", *levels}
        assert {row["path"] for row in rows} == units

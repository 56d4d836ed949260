"""A run's sizes as they are planned, beside the files that the run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.training.distill import ensure_teachers
from ray_kd.training.footprint import footprint
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import ALL_PATHS, TINY_SCENES, daily, tiny

EMA = {"epochs": 3, "batch_size": 30, "ema": {"decay": 0.9}}
RUNS: list[dict[str, Any]] = [
    {"paths": ALL_PATHS, "aggregation": "uncertainty"},
    {"paths": ["logits"], "optimizer": {"name": "adamw", "lr": 0.001}, "training": EMA},
    {"paths": []},
    {"paths": ["review"]},
    {"paths": ["logits"], "aggregation": "cagrad", "student": {"name": "digits_cnn", "width": 16}},
    {"paths": ["channel_wise"], **TINY_SCENES},
]


@pytest.mark.parametrize("changes", daily(RUNS, first=2), ids=lambda changes: str(changes["paths"]))
def test_sizes_are_those_of_the_files_that_a_run_leaves(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec, cache = tiny(tmp_path, **changes), ProcessCache()
    context = local_context(spec)
    ensure_teachers(spec, context, cache)
    planned = footprint(spec, cache.dataset(spec.dataset, context.device))
    training = Training(spec, context, cache)
    list(training.epochs())
    folder = tmp_path / "runs" / spec.identity()
    assert planned.state == pytest.approx((folder / "checkpoints" / "last.pt").stat().st_size, rel=0.15)
    summary = training.finish()
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert planned.weights == pytest.approx(weights, rel=0.02)
    assert planned.records == pytest.approx(sum(sizes.values()) - weights, rel=0.15)
    assert planned.student == summary["parameters"]
    assert set(planned.teachers) == {"teacher"}
    assert planned.memory >= 4 * 3 * planned.student

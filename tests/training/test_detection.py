"""Detection in the loop: plain training bit for bit, resume, ranks whose images hold unlike many objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import in_order
from ray_kd.data.order import epoch_order
from ray_kd.training.build import build
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.evaluation import evaluate
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Interrupted, Training
from ray_kd.training.run_context import local_context
from tests.helpers import shifted
from tests.training.runs import assert_same, bare_training, weights
from tests.training.test_distributed import assert_one_is_two, two_ranks

TINY: dict[str, Any] = {
    "name": "tiny",
    "task": "detection",
    "dataset": {
        "name": "scenes",
        "size": 32,
        "train": 48,
        "labels": 24,
        "validation": 8,
        "test": 12,
        "objects": [0, 3],
    },
    "views": {"name": "jitter", "count": 2},
    "student": {"name": "scenes_detector", "width": 4, "bins": 5, "least_score": 0.005},
    "teacher": {
        "model": {"name": "scenes_detector", "width": 8, "bins": 5, "least_score": 0.005},
        "training": {"epochs": 1, "batch_size": 12},
        "at_chance": "go_on",  # four steps teach it next to nothing
    },
    "training": {"epochs": 2, "batch_size": 8},
    "optimizer": {"lr": 0.02},
    "checkpoints": {"every_epochs": 1},
    "paths": [],
}


def tiny(storage: Path, **changes: Any) -> RunSpec:
    """A run of a second: two epochs of three steps."""
    return RunSpec.parse({**TINY, "storage": str(storage), **changes})


def test_without_paths_a_run_is_plain_training_and_the_student_leaves_alone(tmp_path: Path) -> None:
    spec = tiny(tmp_path)
    summary = distill(spec)
    expected = bare_training(spec, lambda out, batch: out.head.loss(out, batch), classes=10, channels=3)
    assert_same(weights(tmp_path, summary), expected)
    test = summary["last"]["test"]
    assert {"map", "map50", "map75", "map_small", "loss"} <= test.keys()
    assert summary["monitor"] == "map"


def test_resume_is_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = distill(tiny(whole))
    spec = tiny(parts)
    ensure_teachers(spec, local_context(spec), ProcessCache())
    training = Training(spec, local_context(spec))
    epochs = training.epochs()
    assert next(epochs)["epoch"] == 1
    training.stop_requested.set()
    with pytest.raises(Interrupted):
        next(epochs)
    summary = distill(spec)
    assert_same(weights(whole, expected), weights(parts, summary))
    assert summary["last"]["test"] == expected["last"]["test"]


@pytest.mark.outcome
def test_metrics_do_not_depend_on_how_a_split_is_cut(
    tmp_path: Path, monkeypatch: Any, seed_shift: int
) -> None:
    spec = shifted(tiny(tmp_path), seed_shift)
    context = local_context(spec)
    distill(spec)
    parts = build(spec, context, ProcessCache())
    whole = evaluate(parts.student, parts.task, parts.dataset.test, None, context)
    monkeypatch.setattr(
        "ray_kd.training.evaluation.in_order",
        lambda split, device, rank, world, loader: in_order(split, device, rank, world, size=5),
    )
    assert evaluate(parts.student, parts.task, parts.dataset.test, None, context) == pytest.approx(whole)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_ranks_are_one(tmp_path: Path) -> None:
    """Images hold 0 to 3 objects, so that no two ranks have as many; normalisers are global all the same."""
    changes = {"paths": ["class_logit", "localisation", "fpn_imitation"], "aggregation": "adaptive"}
    one = tiny(tmp_path / "one", **changes)
    two = tiny(tmp_path / "two", resources={"workers": 2}, **changes)
    distill(one)
    ensure_teachers(two, local_context(two), ProcessCache())
    two_ranks([two], tmp_path)
    assert_one_is_two(one, two)
    data = build(one, local_context(one), ProcessCache()).dataset.train
    order = epoch_order(len(data), 8, one.seed, 0)
    counts = (data.gather(order[0])["box_label"] >= 0).sum(1)
    assert counts[0::2].sum() != counts[1::2].sum()

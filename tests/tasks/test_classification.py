"""Metrics against a derivation in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_kd.config.options import parse_component
from ray_kd.config.registry import TASKS
from ray_kd.outputs import Outputs
from ray_kd.tasks import Task


def task() -> Task:
    made: Task = TASKS.get("classification")(parse_component(TASKS, "classification"))
    return made


@pytest.mark.parametrize("classes", [3, 10])
def test_metrics_equal_numpy(classes: int) -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 57, classes))
    labels = random.integers(classes, size=57)
    sums: dict[str, float] = {}
    for rows in (slice(0, 20), slice(20, 57)):
        outputs, judge = (Outputs(logits=torch.tensor(z[rows])) for z in (student, teacher))
        batch = {"label": torch.tensor(labels[rows])}
        for name, value in task().sums(outputs, batch, judge).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    metrics = task().metrics(sums)
    order = np.argsort(-student, axis=1)
    k = min(5, classes)
    assert metrics["top1"] == pytest.approx(np.mean(order[:, 0] == labels))
    assert metrics["top5"] == pytest.approx(np.mean([labels[i] in order[i, :k] for i in range(57)]))
    first = teacher.argmax(1)
    assert metrics["agreement"] == pytest.approx(np.mean(order[:, 0] == first))
    assert metrics["agreement5"] == pytest.approx(np.mean([first[i] in order[i, :k] for i in range(57)]))
    log = student - np.log(np.exp(student).sum(1, keepdims=True))
    assert metrics["loss"] == pytest.approx(-log[np.arange(57), labels].mean(), rel=1e-5)


def test_no_teacher_no_agreement() -> None:
    sums = task().sums(Outputs(logits=torch.randn(4, 10)), {"label": torch.arange(4)}, None)
    assert "agreement" not in sums

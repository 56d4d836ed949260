"""Metrics against a derivation in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_kd.config.options import parse_component
from ray_kd.config.registry import TASKS
from ray_kd.outputs import Outputs
from ray_kd.tasks import Task


def task(classes: int = 10) -> Task:
    made: Task = TASKS.get("classification")(parse_component(TASKS, "classification"), classes)
    return made


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [3, 10])
def test_metrics_equal_numpy(classes: int) -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 57, classes)) * 2
    labels = random.integers(classes, size=57)
    meter = task(classes).meter()
    for rows in (slice(0, 20), slice(20, 57)):
        outputs, judge = (Outputs(logits=torch.tensor(z[rows])) for z in (student, teacher))
        meter.update(outputs, {"label": torch.tensor(labels[rows])}, judge)
    metrics = meter.result(lambda sums: sums, lambda one: [one])
    order = np.argsort(-student, axis=1)
    k = min(5, classes)
    assert metrics["top1"] == pytest.approx(np.mean(order[:, 0] == labels))
    assert metrics["top5"] == pytest.approx(np.mean([labels[i] in order[i, :k] for i in range(57)]))
    first = teacher.argmax(1)
    same, wrong = order[:, 0] == first, first != labels
    assert metrics["agreement"] == pytest.approx(same.mean())
    assert metrics["agreement5"] == pytest.approx(np.mean([first[i] in order[i, :k] for i in range(57)]))
    assert metrics["agreement_wrong"] == pytest.approx(same[wrong].mean())
    p, q = softmax(teacher), softmax(student)
    assert metrics["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    assert metrics["loss"] == pytest.approx(-np.log(q)[np.arange(57), labels].mean(), rel=1e-5)
    confidence, error = q.max(1), 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap = abs(confidence[inside].mean() - (order[inside, 0] == labels[inside]).mean())
            error += gap * inside.mean()
    assert metrics["ece"] == pytest.approx(error, rel=1e-4)


def test_no_teacher_no_fidelity() -> None:
    sums = task().sums(Outputs(logits=torch.randn(4, 10)), {"label": torch.arange(4)}, None)
    assert not {"agreement", "kl", "agreement_wrong"} & task().metrics(sums).keys()


def test_a_teacher_that_never_errs_has_no_agreement_where_it_errs() -> None:
    label = torch.arange(10)
    judge = Outputs(logits=torch.eye(10))
    metrics = task().metrics(task().sums(Outputs(logits=torch.randn(10, 10)), {"label": label}, judge))
    assert "agreement_wrong" not in metrics


def test_a_teacher_at_chance_is_noticed() -> None:
    assert task().chance({"top1": 0.12}) is not None
    assert task().chance({"top1": 0.5}) is None

"""Segmentation: metrics against a derivation in NumPy, pixel by pixel, with ignored ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.options import parse_component
from ray_kd.config.registry import TASKS
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.tasks import Task

CLASSES = 6


def task() -> Task:
    made: Task = TASKS.get("segmentation")(parse_component(TASKS, "segmentation"), CLASSES)
    return made


def random_masks(random: np.random.Generator, count: int = 7, size: int = 9) -> np.ndarray:
    """Classes 0 to 3 (4 is in predictions alone, 5 nowhere); an image ignored, and pixels of the others."""
    mask = random.choice([0, 0, 0, 1, 2, 3], size=(count, size, size))
    mask[random.random(mask.shape) < 0.2] = IGNORE
    mask[2] = IGNORE
    return mask


def result(logits: np.ndarray, mask: np.ndarray, judge: np.ndarray | None = None) -> dict[str, float]:
    meter = task().meter()
    for rows in (slice(0, 3), slice(3, None)):
        teacher = None if judge is None else Outputs(logits=torch.tensor(judge[rows]))
        meter.update(Outputs(logits=torch.tensor(logits[rows])), {"mask": torch.tensor(mask[rows])}, teacher)
    return meter.result(lambda sums: sums, lambda one: [one])


def test_metrics_equal_numpy() -> None:
    random = np.random.default_rng(0)
    mask = random_masks(random)
    student, judge = random.normal(size=(2, 7, CLASSES, 9, 9)).astype(np.float32) * 2
    student[:, 5] = judge[:, 5] = -100
    metrics = result(student, mask, judge)
    truth, found, teacher = mask.ravel(), student.argmax(1).ravel(), judge.argmax(1).ravel()
    valid = truth != IGNORE
    truth, found, teacher = truth[valid], found[valid], teacher[valid]
    ious = {}
    for index in range(CLASSES):
        either = (truth == index) | (found == index)
        if either.any():
            ious[index] = ((truth == index) & (found == index)).sum() / either.sum()
    assert ious.keys() == {0, 1, 2, 3, 4}, "class 4 counts as 0, class 5 is left out"
    assert ious[4] == 0
    assert {name: value for name, value in metrics.items() if name.startswith("iou_class")} == pytest.approx(
        {f"iou_class{index}": value for index, value in ious.items()}
    )
    assert metrics["miou"] == pytest.approx(np.mean(list(ious.values())))
    assert metrics["pixel_accuracy"] == pytest.approx((truth == found).mean())

    def rows(logits: np.ndarray) -> np.ndarray:
        flat = logits.transpose(0, 2, 3, 1).reshape(-1, CLASSES)[valid].astype(np.float64)
        powers = np.exp(flat - flat.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    q, p = rows(student), rows(judge)
    assert metrics["loss"] == pytest.approx(-np.log(q)[np.arange(len(q)), truth].mean(), rel=1e-5)
    assert metrics["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    assert metrics["agreement"] == pytest.approx((found == teacher).mean())
    wrong = teacher != truth
    assert metrics["agreement_wrong"] == pytest.approx((found == teacher)[wrong].mean())


def test_the_loss_is_the_mean_over_valid_pixels_and_ignored_ones_do_not_matter() -> None:
    random = np.random.default_rng(1)
    mask = torch.tensor(random_masks(random))
    logits = torch.tensor(random.normal(size=(7, CLASSES, 9, 9)), requires_grad=True)
    loss = task().loss(Outputs(logits=logits), {"mask": mask})
    log = logits.log_softmax(1)
    expected = torch.stack(
        [-log[n, mask[n, i, j], i, j] for n, i, j in (mask != IGNORE).nonzero().tolist()]
    ).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    ignored = (mask == IGNORE).unsqueeze(1).expand_as(logits)
    assert (gradient[ignored] == 0).all()
    other = torch.where(ignored, 50.0, logits.detach())
    torch.testing.assert_close(task().loss(Outputs(logits=other), {"mask": mask}), loss.detach())


def test_logits_are_brought_to_the_masks_resolution() -> None:
    random = np.random.default_rng(2)
    mask = torch.tensor(random_masks(random))
    small = torch.tensor(random.normal(size=(7, CLASSES, 5, 4)), dtype=torch.float32)
    large = F.interpolate(small, (9, 9), mode="bilinear", align_corners=False)
    losses: list[Tensor] = []
    metrics = []
    for logits in (small, large):
        losses.append(task().loss(Outputs(logits=logits), {"mask": mask}))
        metrics.append(result(logits.numpy(), mask.numpy(), logits.numpy()))
    torch.testing.assert_close(losses[0], losses[1])
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5, abs=1e-6)
    assert metrics[0]["agreement"] == 1


def test_nothing_labelled_is_defined() -> None:
    logits = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    mask = torch.full((2, 6, 6), IGNORE)
    loss = task().loss(Outputs(logits=logits), {"mask": mask})
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    values = logits.detach().numpy()
    metrics = result(values, mask.numpy(), values)
    assert metrics == {"loss": 0.0, "miou": 0.0, "pixel_accuracy": 0.0}


def test_a_teacher_of_one_class_is_at_chance() -> None:
    random = np.random.default_rng(3)
    mask = random_masks(random)
    constant = np.zeros((7, CLASSES, 9, 9), np.float32)
    constant[:, 0] = 1
    assert task().chance(result(constant, mask)) is not None
    classes = np.eye(CLASSES, dtype=np.float32)[np.where(mask == IGNORE, 0, mask)]
    assert task().chance(result(classes.transpose(0, 3, 1, 2), mask)) is None

"""Paths between detectors' answers, against formulas written again with loops in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ray_kd.paths import create_path
from ray_kd.testing.scenes import DetectionScene
from tests.paths.detection_numbers import (
    BATCH,
    HEAD,
    STRIDES,
    STUDENT,
    TEACHER,
    Arrays,
    K,
    N,
    R,
    area,
    iou,
    losses,
    make,
    objects,
    outputs,
    places,
    sigmoid,
    softmax,
)


def positives() -> list[tuple[int, int]]:
    """Image and position of each positive."""
    found = HEAD.positives(outputs(STUDENT), BATCH).numpy()
    pairs = [(int(image), int(place)) for image, place in zip(*found.nonzero(), strict=True)]
    assert pairs
    assert 1 not in dict(pairs)
    return pairs


def boxes(arrays: Arrays, image: int, place: int) -> list[float]:
    """The box that a position answers with."""
    level, _, _, x, y = list(places())[place]
    left, top, right, bottom = (
        STRIDES[level] * float(np.arange(R) @ softmax(arrays["bins"][image, place, edge]))
        for edge in range(4)
    )
    return [x - left, y - top, x + right, y + bottom]


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))


def test_class_logit() -> None:
    total, pairs = 0.0, positives()
    for image, place in pairs:
        for k in range(K):
            p, q = (sigmoid(side["logits"][image, place, k] / 2) for side in (TEACHER, STUDENT))
            total += 4 * divergence(np.array([p, 1 - p]), np.array([q, 1 - q])) / K
    assert losses(make("class_logit")) == pytest.approx([total / len(pairs)])


def test_class_logit_weighted_by_the_teacher() -> None:
    total = weights = 0.0
    for z_t, z_s in zip(TEACHER["logits"].reshape(-1, K), STUDENT["logits"].reshape(-1, K), strict=True):
        weight = sigmoid(z_t).max()
        weights += weight
        for k in range(K):
            p, q = sigmoid(z_t[k]), sigmoid(z_s[k])
            total += weight * divergence(np.array([p, 1 - p]), np.array([q, 1 - q])) / K
    path = make("class_logit", where="teacher", temperature=1)
    assert losses(path) == pytest.approx([total / weights])


def test_box_regression() -> None:
    total, pairs = 0.0, positives()
    for image, place in pairs:
        one, other = boxes(STUDENT, image, place), boxes(TEACHER, image, place)
        around = area([*np.minimum(one[:2], other[:2]), *np.maximum(one[2:], other[2:])])
        overlap = iou(one, other)
        union = (area(one) + area(other)) / (1 + overlap)
        total += 1 - overlap + (around - union) / around
    assert losses(make("box_regression")) == pytest.approx([total / len(pairs)], rel=1e-6)


def edge_loss(image: int, place: int) -> float:
    """Mean over edges of the tempered divergence's mean over bins."""
    terms = [
        100 / R * divergence(*(softmax(side["bins"][image, place, edge] / 10) for side in (TEACHER, STUDENT)))
        for edge in range(4)
    ]
    return float(np.mean(terms))


def test_localisation() -> None:
    total = 0.0
    for image, place in positives():
        total += sigmoid(STUDENT["logits"][image, place]).max() * edge_loss(image, place)
    assert losses(make("localisation")) == pytest.approx([2 * total / N])
    near = 0.0
    for image in range(N):
        for place, prior in enumerate(HEAD.priors.tolist()):
            if (image, place) in positives() or not objects(image):
                continue
            best = max(distance_iou(prior, box) for box in objects(image))
            if best >= 0.125:
                near += best * edge_loss(image, place)
    assert near > 0
    wanted = 2 * (total + 0.5 * near) / N
    assert losses(make("localisation", valuable=0.5)) == pytest.approx([wanted], rel=1e-6)


def distance_iou(one: Sequence[float], other: Sequence[float]) -> float:
    apart = sum(((one[i] + one[i + 2] - other[i] - other[i + 2]) / 2) ** 2 for i in (0, 1))
    diagonal = sum((max(one[i + 2], other[i + 2]) - min(one[i], other[i])) ** 2 for i in (0, 1))
    return float(iou(one, other) - apart / diagonal)


@pytest.mark.parametrize("name", ["box_mask", "fgfi", "class_logit", "box_regression", "localisation", "fgd"])
def test_images_without_objects_are_ordinary(name: str) -> None:
    """A zero that is connected, except where the background teaches too."""
    path = make(name)
    student = outputs(STUDENT)
    leaves = [*student.features, student.logits, student.extra["bins"]]
    for values in leaves:
        values.requires_grad_()  # type: ignore[union-attr]
    batch = {**BATCH, "box_label": torch.full((N, 3), -1)}
    total = torch.stack(list(path(student, path.target(outputs(TEACHER)), batch).values())).sum()
    total.backward()
    assert (float(total.detach()) == 0) == (name != "fgd")
    gradients = [values.grad for values in leaves if values is not None and values.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients) == (name == "fgd")


def two_stage(name: str) -> tuple[list[float], tuple[np.ndarray, ...], np.ndarray]:
    """A path's losses on the conformance scene, whose last image's last proposal is padding; class
    logits and deltas of student and teacher for the proposals; and which proposals are real."""
    scene = DetectionScene(dtype=torch.float64)
    proposals = scene.teacher.extra["proposals"].detach()
    proposals[-1, -1] = 0
    scene.teacher.extra["proposals"] = proposals
    path = create_path(
        name,
        student_channels=scene.student_channels,
        teacher_channels=scene.teacher_channels,
    )
    found = path(scene.student, path.target(scene.teacher), scene.batch)
    sides: list[Any] = [scene.student, scene.teacher]
    answers = [values.detach().numpy() for side in sides for values in side.head.roi(side, proposals)]
    real = np.ones(proposals.shape[:2], dtype=bool)
    real[-1, -1] = False
    return [float(value.detach()) for value in found.values()], tuple(answers), real


def test_roi_logit() -> None:
    found, (ours, _, theirs, _), real = two_stage("roi_logit")
    terms = [divergence(softmax(t), softmax(s)) for s, t in zip(ours[real], theirs[real], strict=True)]
    assert found == pytest.approx([np.mean(terms)])


def test_roi_box() -> None:
    """Smooth L1 of the deltas of the class that the teacher thinks likeliest, never the background's."""
    found, (_, ours, logits, theirs), real = two_stage("roi_box")
    total = weights = 0.0
    for z, d_s, d_t in zip(logits[real], ours[real], theirs[real], strict=True):
        likeliest = int(np.argmax(z[1:])) + 1
        weight = softmax(z)[likeliest]
        gap = np.abs(d_s[likeliest] - d_t[likeliest])
        total += weight * np.mean(np.where(gap < 1, gap**2 / 2, gap - 0.5))
        weights += weight
    assert weights > 1
    assert found == pytest.approx([total / weights])

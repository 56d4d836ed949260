"""Paths between feature maps, against formulas written again in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.paths.numbers import N, draw, losses, make

STUDENT, TEACHER = draw(1, (3, 5)), draw(2, (4, 7))
SAME = draw(3, (4, 7))
BN = 1 / np.sqrt(1 + 1e-5)
"""What a fresh BatchNorm multiplies by in evaluation mode."""


def pool(feature: np.ndarray) -> np.ndarray:
    return np.asarray(feature.mean(axis=(2, 3)))


def weights(module: nn.Module) -> list[np.ndarray]:
    """Weights of the convolutions of a module, in order."""
    found = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
    return [weight.detach().numpy() for weight in found]


def convolve(feature: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Convolution with zero padding that keeps the size."""
    reach = weight.shape[2] // 2
    padded = np.pad(feature, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    height, width = feature.shape[2:]
    total = np.zeros((len(feature), len(weight), height, width))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = padded[:, :, i : i + height, j : j + width]
            total += np.einsum("oc,nchw->nohw", weight[:, :, i, j], part)
    return total


def test_feature_map() -> None:
    wanted = [
        np.mean((pool(s) - pool(t)) ** 2) for s, t in zip(SAME["features"], TEACHER["features"], strict=True)
    ]
    path = make("feature_map", SAME, TEACHER, adapter=None)
    assert losses(path, SAME, TEACHER) == pytest.approx(wanted)


def test_feature_map_adapts_before_pooling() -> None:
    path = make("feature_map", STUDENT, TEACHER).eval()
    wanted = []
    for weight, s, t in zip(weights(path), STUDENT["features"], TEACHER["features"], strict=True):
        wanted.append(np.mean((pool(convolve(s, weight)) * BN - pool(t)) ** 2))
    assert losses(path, STUDENT, TEACHER) == pytest.approx(wanted)


def test_softmax_regression() -> None:
    model = nn.Module()
    model.head = nn.Linear(7, 4).double()
    path = make("softmax_regression", STUDENT, TEACHER, model).eval()
    (weight,) = weights(path)
    vector = pool(convolve(STUDENT["features"][1], weight)) * BN
    answer = vector @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    wanted = np.mean((answer - TEACHER["logits"]) ** 2)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([wanted])


def test_hint() -> None:
    path = make("hint", STUDENT, TEACHER).eval()
    (weight,) = weights(path)
    regressed = np.maximum(convolve(STUDENT["features"][1], weight) * BN, 0)
    wanted = np.mean((regressed - TEACHER["features"][1]) ** 2)
    assert path.keys == ("hint/stage1",)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([wanted])


@pytest.mark.parametrize(("ours", "theirs", "size"), [(3, 5, 4), (9, 10, 4), (6, 8, 2), (2, 3, 2)])
def test_nst_mmd_for_every_shape_of_target(ours: int, theirs: int, size: int) -> None:
    """Sums over channels; over positions; half a matrix as target; few student channels."""
    student, teacher = draw(4, (ours,), (size,)), draw(5, (theirs,), (size,))
    total = 0.0
    for f_s, f_t in zip(student["features"][0], teacher["features"][0], strict=True):
        sets = []
        for feature in (f_s, f_t):
            rows = feature.reshape(len(feature), -1)
            sets.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
        x, y = sets
        kernel = [
            np.mean([[float(a @ b) ** 2 for a in one] for b in two]) for one, two in ((x, x), (y, y), (x, y))
        ]
        total += kernel[0] + kernel[1] - 2 * kernel[2]
    assert losses(make("nst_mmd", student, teacher), student, teacher) == pytest.approx([total / N])


def test_vid() -> None:
    path = make("vid", STUDENT, TEACHER)
    wanted = []
    for stage in (0, 1):
        means: Any = path.means
        scale: Any = path.scales
        feature = STUDENT["features"][stage]
        first, second, third = weights(means[str(stage)])
        mean = convolve(np.maximum(convolve(np.maximum(convolve(feature, first), 0), second), 0), third)
        scale[str(stage)].data += 0.1 * torch.arange(len(third))
        raw = scale[str(stage)].detach().numpy()
        assert np.log1p(np.exp(raw[0])) + 1e-5 == pytest.approx(5)
        variance = (np.log1p(np.exp(raw)) + 1e-5)[None, :, None, None]
        error = (TEACHER["features"][stage] - mean) ** 2
        wanted.append(np.mean(0.5 * (error / variance + np.log(variance))))
    assert losses(path, STUDENT, TEACHER) == pytest.approx(wanted)


def context(found: np.ndarray, wanted: np.ndarray) -> float:
    """HCL of square maps whose side is a power of two."""
    terms = [(1.0, np.mean((found - wanted) ** 2))]
    side, weight = found.shape[2] // 2, 0.5
    while side >= 1:
        shape = (*found.shape[:2], side, found.shape[2] // side, side, found.shape[2] // side)
        pooled = (found - wanted).reshape(shape).mean(axis=(3, 5))
        terms.append((weight, np.mean(pooled**2)))
        side, weight = side // 2, weight / 2
    return float(sum(w * value for w, value in terms) / sum(w for w, _ in terms))


def test_review() -> None:
    path = make("review", STUDENT, TEACHER).eval()
    fusions: Any = path.fusions
    levels = [*STUDENT["features"], pool(STUDENT["features"][1])[:, :, None, None]]
    teacher = [*TEACHER["features"], pool(TEACHER["features"][1])[:, :, None, None]]
    wanted, handed = [0.0, 0.0, 0.0], np.zeros(0)
    for level in (2, 1, 0):
        fusion = fusions[level]
        x = convolve(levels[level], weights(fusion.narrow)[0]) * BN
        if level < 2:
            times = x.shape[2] // handed.shape[2]
            y = handed.repeat(times, axis=2).repeat(times, axis=3)
            raw = convolve(np.concatenate([x, y], axis=1), weights(fusion.attention)[0])
            raw += fusion.attention[0].bias.detach().numpy()[None, :, None, None]
            maps = 1 / (1 + np.exp(-raw))
            x = x * maps[:, :1] + y * maps[:, 1:]
        handed = x
        found = convolve(x, weights(fusion.widen)[0]) * BN
        wanted[level] = context(found, teacher[level])
    assert path.keys == ("review/stage0", "review/stage1", "review/pooled")
    assert losses(path, STUDENT, TEACHER) == pytest.approx(wanted)

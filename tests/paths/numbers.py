"""Small fixed outputs as NumPy arrays, and a path's losses on them, for pinned definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ray_kd.outputs import Outputs
from ray_kd.paths import Path, create_path

N, K = 6, 4
SIZES = (4, 2)
LABEL = np.array([0, 1, 2, 3, 0, 1])
SAMPLE = np.array([4, 9, 2, 7, 0, 5])


def draw(seed: int, channels: tuple[int, ...], sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Features (N, C, H, H) after a ReLU for each stage, and logits (N, K)."""
    rng = np.random.default_rng(seed)
    features = [np.maximum(rng.normal(size=(N, c, h, h)), 0) for c, h in zip(channels, sizes, strict=True)]
    return {"features": features, "logits": 2 * rng.normal(size=(N, K))}


def outputs(arrays: dict[str, Any]) -> Outputs:
    """The same numbers as Outputs, in float64."""
    features = tuple(torch.tensor(values) for values in arrays["features"])
    return Outputs(features, torch.tensor(arrays["logits"]))


def make(
    name: str,
    student: dict[str, Any],
    teacher: dict[str, Any],
    model: nn.Module | None = None,
    **options: Any,
) -> Path:
    """The path between two sets of arrays, in float64."""
    widths = [tuple(values.shape[1] for values in side["features"]) for side in (student, teacher)]
    path = create_path(name, student_channels=widths[0], teacher_channels=widths[1], **options)
    if model is not None:
        path.bind(model)
    return path.double()


def losses(path: Path, student: dict[str, Any], teacher: dict[str, Any]) -> list[float]:
    """What the path says."""
    batch = {"label": torch.tensor(LABEL), "sample": torch.tensor(SAMPLE)}
    found = path(outputs(student), path.target(outputs(teacher)), batch)
    return [float(value.detach()) for value in found.values()]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

"""Small fixed outputs of two detectors as NumPy arrays, and a path's losses on them, for pinned paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ray_kd.models.detection.distribution import DistributionHead
from ray_kd.outputs import Outputs
from ray_kd.paths import Path, create_path

N, K, R = 3, 4, 6
SIZES, STRIDES = ((6, 8), (3, 4)), (4, 8)
IMAGE = (24, 32)
BOXES = np.array(
    [
        [[2, 3, 13, 15], [10, 8, 30, 22], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[20, 1, 27, 9], [0, 0, 0, 0], [4, 2, 31, 23]],
    ],
    dtype=float,
)
LABEL = np.array([[1, 0, -1], [-1, -1, -1], [3, -1, 2]])
CROWD = np.array([[False, False, False], [False, False, False], [False, False, True]])
BATCH = {
    "image": torch.zeros(N, 3, *IMAGE),
    "boxes": torch.tensor(BOXES),
    "box_label": torch.tensor(LABEL),
    "crowd": torch.tensor(CROWD),
    "sample": torch.tensor([4, 9, 2]),
}
HEAD = DistributionHead(
    SIZES,
    STRIDES,
    torch.device("cpu"),
    reach=3.0,
    radius=1.5,
    least_score=0.05,
    overlap=0.6,
    most=10,
)
Arrays = dict[str, Any]


def draw(seed: int, width: int) -> Arrays:
    """Levels (N, C, H, W), class logits (N, L, K) and bins (N, L, 4, R)."""
    rng = np.random.default_rng(seed)
    count = sum(height * width for height, width in SIZES)
    return {
        "levels": [np.maximum(rng.normal(size=(N, width, *size)), 0) for size in SIZES],
        "logits": 2 * rng.normal(size=(N, count, K)),
        "bins": 2 * rng.normal(size=(N, count, 4, R)),
    }


STUDENT, TEACHER = draw(1, 5), draw(2, 5)
NARROW = draw(3, 3)


def outputs(arrays: Arrays) -> Outputs:
    levels = tuple(torch.tensor(values) for values in arrays["levels"])
    return Outputs(levels, torch.tensor(arrays["logits"]), {"bins": torch.tensor(arrays["bins"])}, HEAD)


def make(name: str, student: Arrays = STUDENT, **options: Any) -> Path:
    widths = [tuple(level.shape[1] for level in side["levels"]) for side in (student, TEACHER)]
    return create_path(name, student_channels=widths[0], teacher_channels=widths[1], **options).double()


def losses(path: Path, student: Arrays = STUDENT) -> list[float]:
    found = path(outputs(student), path.target(outputs(TEACHER)), BATCH)
    return [float(value.detach()) for value in found.values()]


def objects(image: int) -> list[np.ndarray]:
    """Boxes of an image that are objects."""
    return [BOXES[image, i] for i in range(3) if LABEL[image, i] >= 0 and not CROWD[image, i]]


def places() -> Iterator[tuple[int, int, int, float, float]]:
    """Level, row, column and centre (x, y) of each position, in order."""
    for level, ((height, width), stride) in enumerate(zip(SIZES, STRIDES, strict=True)):
        for row in range(height):
            for column in range(width):
                yield level, row, column, (column + 0.5) * stride, (row + 0.5) * stride


def area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = area([*low, *high])
    return shared / (area(one) + area(other) - shared)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


def sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))
